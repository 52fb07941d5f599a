"""Forms, read as the ingress reads them."""

import contextlib
import time

import pytest
from pydantic import BaseModel

from serve_app.api import form
from serve_app.api.form import parse_form
from serve_app.errors import InvalidRequestError
from serve_app.photos.source import PhotoSource
from serve_app.schemas.faces import FacesRequest
from serve_app.schemas.requests import AvatarRequest
from tests.support.bodies import CODECS

BODY = '--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nGrüße, 世界\r\n--x--\r\n'.encode()
TYPE = "multipart/form-data; boundary=x"
SIZE = 16 << 20
MAX_CPU_S = 1  # a tenth is usual; the parser alone takes 5 for some


def field(name: str, value: bytes = b"1", more: str = "") -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), more.encode(), value)


def parsed(*parts: bytes) -> dict[str, object]:
    return parse_form(b"".join(parts) + b"--x--\r\n", TYPE, AvatarRequest)


@pytest.mark.parametrize("codec", CODECS)
def test_the_client_does_not_choose_the_codec_of_a_form(codec: str) -> None:
    assert parse_form(BODY, f"{TYPE}; charset={codec}", AvatarRequest) == {"prompt": "Grüße, 世界"}


@pytest.mark.parametrize("boundary", ["", "; boundary", "; boundary=", '; boundary="a\\"b"', f"; boundary={'x' * 71}"])
def test_a_form_without_a_valid_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_form(BODY, f"multipart/form-data{boundary}", AvatarRequest)


@pytest.mark.parametrize(
    "photo",
    [b"", b"\r\n", b"\r\n--", b"\r\n--y", b"a\r\n-", bytes(range(256)) * 3, b"\r\n--xy\r\n--xz", b"\r\n--" * 200_000],
)
def test_a_photo_is_the_bytes_that_were_sent(photo: bytes) -> None:
    values = parsed(field("app_id", b"a"), field("file", photo, '; filename="me.jpg"'))
    assert values == {"app_id": "a", "file_url": PhotoSource(photo)}


def test_values_are_typed_as_the_model_wants_them_and_empty_ones_are_not_given() -> None:
    values = parsed(
        field("batch", b"2"),
        field("celery", b"true"),
        field("ref_id", b"12"),
        field("gender", b""),
        field("seed", b"x"),
    )
    assert values == {"batch": 2, "celery": True, "ref_id": "12", "seed": "x"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *[("celery", text, True) for text in ("true", "True", "TRUE", "1", "on", "On", "yes", "y", " true\r\n")],
        *[("celery", text, False) for text in ("false", "False", "0", "off", "OFF", "no", "n")],
        ("celery", "null", None),
        ("celery", "maybe", "maybe"),
        ("remove_background", "on", True),
        ("batch", " 3 ", 3),
        ("batch", "2.0", 2.0),
        ("batch", "null", None),
        ("batch", "three", "three"),
        ("batch", "0" * 100, "0" * 100),
        ("guidance_scale", "1.5", 1.5),
        ("guidance_scale", "2", 2),
        ("seed", "true", True),  # which the model refuses
        ("prompt", "on", "on"),
        ("prompt", "1", "1"),
    ],
)
def test_a_value_is_what_its_writer_means(name: str, text: str, value: object) -> None:
    found = parsed(field(name, text.encode()))[name]
    assert (found, type(found)) == (value, type(value))


def test_of_an_unknown_field_only_its_name_is_kept() -> None:
    assert parsed(field("sharpen", b"1" * 1000), field("empty", b"")) == {"sharpen": None, "empty": None}


@pytest.mark.parametrize("name", ["batch", "unknown"])
def test_a_name_given_twice_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(*[field(name)] * 2)
    assert caught.value.data["fields"] == [{"field": name, "message": "given more than once"}]


def files(count: int) -> bytes:
    return b"".join(field("file", b"%d" % index, '; filename="me.jpg"') for index in range(count)) + b"--x--\r\n"


def test_several_files_are_photos_of_one_person_in_their_order() -> None:
    values = parse_form(files(4), TYPE, AvatarRequest)
    assert values == {"file_urls": [PhotoSource(b"%d" % index) for index in range(4)]}


@pytest.mark.parametrize(
    ("model", "count", "message"), [(AvatarRequest, 5, "more than 4 photos"), (FacesRequest, 2, "given more than once")]
)
def test_a_form_has_no_more_files_than_its_model_has_photos(model: type[BaseModel], count: int, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_form(files(count), TYPE, model)
    assert caught.value.data["fields"] == [{"field": "file", "message": message}]


def test_urls_of_several_photos_are_parts_of_one_name() -> None:
    assert parsed(field("file_urls", b"https://a"), field("file_urls", b"https://b")) == {
        "file_urls": ["https://a", "https://b"]
    }


def test_an_empty_url_is_no_photo() -> None:
    assert parsed(field("file_urls", b"https://a"), field("file_urls", b"")) == {"file_urls": ["https://a"]}
    assert parsed(field("file_urls", b""), field("file", b"1", '; filename="me.jpg"')) == {
        "file_url": PhotoSource(b"1")
    }


@pytest.mark.parametrize("name", ["file_url", "file_urls", "image"])
def test_a_file_comes_alone(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(field(name, b"https://a"), field("file", b"1", '; filename="me.jpg"'))
    assert caught.value.data["fields"] == [{"field": "file", "message": f"comes beside a {name}: send one of them"}]


HOSTILE = {
    "near misses": b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n" + b"\r\n--xy" * (SIZE // 6),
    "endings": b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n" + b"\r\n--x-" * (SIZE // 6),
    "parts": (field("a") * (SIZE // 50)),
    "blanks": field("a") + b"--x" + b" " * SIZE + b"\r\n",
    "blanks at a line's start": b"--x\r\nContent-Disposition:" + b" " * SIZE,
    "header lines": b"--x\r\n" + b"A: b\r\n" * (SIZE // 6),
    "a long header": b"--x\r\nContent-Disposition: " + b"a;" * (SIZE // 2),
    "a long header name": b"--x\r\n" + b"a" * SIZE,
    "quotes": (b'--x\r\nContent-Disposition: form-data; name="' + b'\\";' * 1300 + b"\r\n\r\n\r\n") * 64,
    "line ends": b"\r\n" * (SIZE // 2),
    "line ends and hyphens": b"\r\n-" * (SIZE // 3),
    "line ends in a photo": field("app_id")[:-1] + b"\r" * SIZE,
    "beginnings": field("app_id")[:-2] + b"\r\n--" * (SIZE // 4),
    "a number of brackets": field("seed", b"[" + b"[]," * (SIZE // 4) + b"[]]"),
    "an epilogue": field("app_id") + b"--x--\r\n" + b"--x\r\n" * (SIZE // 5),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_form_of_the_largest_size_takes_long(name: str) -> None:
    began = time.process_time()
    with contextlib.suppress(InvalidRequestError):
        parse_form(HOSTILE[name], TYPE, AvatarRequest)
    assert time.process_time() - began < MAX_CPU_S


def test_a_boundary_of_the_worst_shape_takes_no_longer() -> None:
    boundary = "a" * 70
    body = f"--{boundary}\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n".encode()
    body += (b"\r\n--" + b"a" * 69 + b"b") * (SIZE // 74)
    began = time.process_time()
    parse_form(body, f"multipart/form-data; boundary={boundary}", AvatarRequest)
    assert time.process_time() - began < MAX_CPU_S


@pytest.mark.parametrize("name", ["near misses", "parts", "blanks"])
def test_what_the_parser_would_take_seconds_for_does_not_reach_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "MultipartParser", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(InvalidRequestError):
        parse_form(HOSTILE[name], TYPE, AvatarRequest)
