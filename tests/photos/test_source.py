"""The photo of a request, as it is held between the body and the decoder."""

import asyncio
import base64
import hashlib
import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.errors import ImageUrlError, OverloadedError
from serve_app.photos import source as sources
from serve_app.photos.fetch import PhotoFetcher
from serve_app.photos.source import PhotoSource
from serve_app.photos.urls import BASE64_CHUNK_CHARS, MAX_URL_CHARS, FetchSettings, decode_data_url
from serve_app.schemas.requests import AvatarRequest, body_digest

JPEG = b"\xff\xd8\xff" + bytes(range(256)) * 3000  # several chunks
HEAD = "data:image/jpeg;base64,"
DATA_URL = HEAD + base64.b64encode(JPEG).decode()
URLS = ["https://example.org/me.jpg", "https://exämple.org/ü?x=1", 'say "hi"\\', "data:", "data:,", HEAD, HEAD + "!",
        HEAD + "QR==", HEAD + "QQ%3D%3d", HEAD + "QUJD", "DATA:Image/JPEG;Base64," + "QUJDRA==", DATA_URL,
        "data:image/png,plain", HEAD + "é"]  # fmt: skip


def request_of(url: Any, **fields: Any) -> AvatarRequest:
    return AvatarRequest(app_id="face-avatar", file_url=url, **fields)


def test_a_data_url_is_decoded_at_once_and_its_text_is_not_kept() -> None:
    photo = PhotoSource(DATA_URL)
    assert photo.held_bytes == len(JPEG)
    assert photo.read(len(JPEG)) == JPEG
    assert photo.read(len(JPEG)) is photo.read(len(JPEG))
    assert photo.description == f"data:image/jpeg ({len(JPEG)} bytes)"


def test_the_bytes_of_a_form_are_never_copied() -> None:
    assert PhotoSource(JPEG).read(len(JPEG)) is JPEG


@pytest.mark.parametrize("content", [JPEG, DATA_URL, HEAD + base64.b64encode(JPEG).decode().replace("=", "%3D")])
def test_an_uploaded_photo_has_a_limit(content: str | bytes) -> None:
    fetcher = PhotoFetcher(FetchSettings(max_bytes=len(JPEG) - 1))
    with pytest.raises(ImageUrlError, match="at most") as caught:
        asyncio.run(fetcher.fetch(PhotoSource(content)))
    assert caught.value.data["reason"] == "too_large"


@pytest.mark.parametrize("url", URLS)
def test_a_damaged_data_url_is_reported_when_it_is_read_and_still_is_what_was_sent(url: str) -> None:
    assert "".join(PhotoSource(url).url_parts()) == url


@given(st.binary(max_size=200), st.integers(0, 15))
@example(b"A", 5)
def test_a_data_url_is_the_same_again_to_the_letter(data: bytes, last_bits: int) -> None:
    text = base64.b64encode(data).decode()
    if text.endswith("=="):  # the last four bits mean nothing
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        text = text[:-3] + letters[letters.index(text[-3]) + last_bits] + "=="
    photo = PhotoSource(HEAD + text)
    assert photo.read(1000) == data
    assert "".join(photo.url_parts()) == HEAD + text


NEWER = {
    "style",
    "quality",
    "previews",
    "start_deadline_s",
    "fallback_app_id",
}  # fields that came after the first records; where they are not given, digests are without them


@pytest.mark.parametrize("url", URLS)
def test_requests_with_an_idempotency_key_are_compared_by_all_of_their_json(url: str) -> None:
    # Records of requests outlive an upgrade, so this digest must stay what it is.
    request = request_of(url, prompt='"file_url":"', batch=2)
    fields = {"app_id": "face-avatar", "file_url": url, "prompt": '"file_url":"', "gender": None}
    dumped = json.loads(request.model_dump_json(exclude={"file_urls", *NEWER}))
    assert list(dumped)[:4] == list(fields)
    text = json.dumps({**dumped, **fields}, ensure_ascii=False, separators=(",", ":"))
    assert body_digest(request) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("urls", [URLS[:1], URLS[:3], [DATA_URL, URLS[0], DATA_URL]])
def test_a_request_with_several_photos_is_compared_by_all_of_them_in_their_order(urls: list[str]) -> None:
    request = several(urls)
    dumped = json.loads(request.model_dump_json(exclude={"file_url", *NEWER})) | {"file_urls": urls}
    text = json.dumps(dumped, ensure_ascii=False, separators=(",", ":"))
    assert body_digest(request) == hashlib.sha256(text.encode()).hexdigest()
    assert body_digest(several([*urls, URLS[1]])) != body_digest(request)
    assert body_digest(several([PhotoSource(JPEG)])) == body_digest(several([DATA_URL])) != body_digest(request)


def test_requests_that_differ_in_a_newer_field_differ() -> None:
    plain, comic, clay = (request_of(DATA_URL, style=style) for style in (None, "comic", "clay"))
    fast = request_of(DATA_URL, quality="fast")
    assert len({body_digest(plain), body_digest(comic), body_digest(clay), body_digest(fast)}) == 4
    assert body_digest(request_of(DATA_URL, quality="standard")) == body_digest(plain)


def several(photos: list[Any]) -> AvatarRequest:
    return AvatarRequest(app_id="face-avatar", file_urls=photos)


def test_a_form_has_the_digest_of_the_same_photo_in_json() -> None:
    assert body_digest(request_of(PhotoSource(JPEG))) == body_digest(request_of(DATA_URL))
    assert body_digest(request_of(PhotoSource(JPEG + b"x"))) != body_digest(request_of(DATA_URL))


@pytest.mark.parametrize("shown", [repr, str, lambda request: request.model_dump_json(), lambda r: str(r.model_dump())])
def test_no_log_shows_a_photo(shown: Any) -> None:
    text = shown(request_of(DATA_URL))
    assert DATA_URL[-100:] not in text
    assert len(text) < 1000


def test_a_photo_is_held_until_its_last_holder_releases_it() -> None:
    photo, dropped = PhotoSource(JPEG), []
    photo.on_drop(lambda: dropped.append(True))
    with photo.held():
        photo.retain()
    assert (photo.held_bytes, dropped) == (len(JPEG), [])
    photo.release()
    assert (photo.held_bytes, dropped) == (0, [True])
    photo.drop()
    assert dropped == [True]
    with pytest.raises(OverloadedError, match="send the request again"):
        photo.read(len(JPEG))


def test_a_url_stays_when_it_is_dropped() -> None:
    photo = PhotoSource("https://example.org/me.jpg")
    photo.drop()
    assert photo.url == "https://example.org/me.jpg"


@pytest.mark.parametrize("url", ["https://example.org/" + "x" * MAX_URL_CHARS, HEAD + "A" * MAX_URL_CHARS + "😀"])
def test_a_long_text_that_can_be_no_photo_is_not_held(url: str) -> None:
    with pytest.raises(ImageUrlError):
        request_of(url)


@pytest.mark.parametrize("url", ["", None, 5, b"bytes"])
def test_a_photo_in_json_is_a_text(url: Any) -> None:
    with pytest.raises(ValidationError):
        request_of(url)


@pytest.mark.parametrize("at", [BASE64_CHUNK_CHARS - 4, BASE64_CHUNK_CHARS - 2, BASE64_CHUNK_CHARS])
def test_padding_ends_base64_wherever_its_chunks_end(at: int) -> None:
    text = "A" * (2 * BASE64_CHUNK_CHARS)
    with pytest.raises(ImageUrlError, match="invalid base64"):
        decode_data_url(HEAD + text[:at] + "==" + text[at + 2 :], len(text))


def test_parts_of_a_url_are_whole_triples_of_bytes() -> None:
    assert sources.CHUNK_BYTES % 3 == 0
    assert BASE64_CHUNK_CHARS % 4 == 0


PICTURE = JPEG + b"\xfb"  # with padding
PLAIN = base64.b64encode(PICTURE).decode()
LINES = "\r\n".join(PLAIN[at : at + 76] for at in range(0, len(PLAIN), 76))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(HEAD + LINES, id="lines of 76 characters"),
        pytest.param(HEAD + PLAIN + "\n", id="a line break at the end"),
        pytest.param(HEAD + " " + PLAIN.replace("A", "A\t"), id="white space within"),
        pytest.param(HEAD + PLAIN.rstrip("="), id="no padding"),
        pytest.param(HEAD + PLAIN.translate(str.maketrans("+/", "-_")), id="the alphabet for URLs"),
        pytest.param(HEAD + base64.urlsafe_b64encode(PICTURE).decode().rstrip("="), id="both"),
        pytest.param("data:;base64," + PLAIN, id="no type"),
        pytest.param("data:application/octet-stream;base64," + PLAIN, id="any type"),
        pytest.param("data:image/*;base64," + PLAIN, id="any picture"),
        pytest.param("data:image/jpg;base64," + PLAIN, id="jpg"),
        pytest.param(PLAIN, id="no data URL"),
        pytest.param("\n" + LINES + "\n", id="no data URL, in lines"),
        pytest.param(base64.urlsafe_b64encode(PICTURE).decode().rstrip("="), id="no data URL, the alphabet for URLs"),
    ],
)
def test_base64_is_used_as_clients_write_it(text: str) -> None:
    photo = PhotoSource(text)
    assert photo.is_decoded
    assert photo.read(len(PICTURE)) == PICTURE
    assert re.fullmatch(rf"data:image/jpe?g \({len(PICTURE)} bytes\)", photo.description)
    assert PhotoSource("".join(photo.url_parts())).read(len(PICTURE)) == PICTURE


@pytest.mark.parametrize(
    "text", ["https://example.org/me.jpg", "example.org/" + "a" * 80, "a" * 63, "/" + "a" * 70 + ".jpg"]
)
def test_a_url_is_not_taken_for_base64(text: str) -> None:
    assert PhotoSource(text).url == text
