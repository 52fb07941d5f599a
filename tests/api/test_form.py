"""Forms, read as the ingress reads them."""

import asyncio
import encodings.aliases

import pytest

from serve_app.api.form import read_form
from serve_app.errors import InvalidRequestError
from serve_app.schemas.requests import AvatarRequest

CODECS = sorted({*encodings.aliases.aliases.values(), "punycode", "undefined", "raw_unicode_escape", "idna", "utf-8\0"})
BODY = '--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nGrüße, 世界\r\n--x--\r\n'.encode()


@pytest.mark.parametrize("codec", CODECS)
def test_the_client_does_not_choose_the_codec_of_a_form(codec: str) -> None:
    content_type = f"multipart/form-data; boundary=x; charset={codec}"
    assert asyncio.run(read_form(BODY, content_type, AvatarRequest)) == {"prompt": "Grüße, 世界"}


@pytest.mark.parametrize("boundary", ["", "; boundary", "; boundary=", '; boundary="a\\"b"', f"; boundary={'x' * 71}"])
def test_a_form_without_a_valid_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(InvalidRequestError):
        asyncio.run(read_form(BODY, f"multipart/form-data{boundary}", AvatarRequest))
