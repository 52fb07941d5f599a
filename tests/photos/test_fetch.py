"""The fetch of photos: what arrives, sizes, time, answers."""

import asyncio
import gzip
import zlib
from io import BytesIO
from types import SimpleNamespace

import pytest
from aiohttp import web
from PIL import Image

import serve_app
from serve_app.errors import ImageUrlError
from serve_app.photos import fetch
from serve_app.photos.fetch import PhotoFetcher
from serve_app.photos.source import PhotoSource
from serve_app.photos.urls import FetchSettings
from tests.support.photo_fetches import (
    LOOPBACK,
    PHOTO,
    fetch_from,
    fetched,
    forever,
    http_server,
    photo,
    raw_server,
    reason_from,
    refusal,
    run,
)
from tests.support.resolvers import FixedResolver

# What arrives


def test_a_photo_is_fetched_whole():
    assert fetch_from(photo) == PHOTO


def test_the_content_type_is_not_believed():
    async def as_text(_: web.Request) -> web.Response:
        return web.Response(body=PHOTO, content_type="text/html")

    assert fetch_from(as_text) == PHOTO


def test_the_request_asks_for_no_compression_and_carries_no_cookies_or_secrets(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    seen = []

    async def spy(request: web.Request) -> web.Response:
        seen.append(request.headers)
        if request.path == "/first":
            return web.Response(status=302, headers={"Location": "/second", "Set-Cookie": "a=b"})
        return web.Response(body=PHOTO)

    assert fetch_from(spy, path="/first") == PHOTO
    assert [headers["Accept-Encoding"] for headers in seen] == ["identity", "identity"]
    assert [headers["User-Agent"] for headers in seen] == [f"face-avatar/{serve_app.__version__}"] * 2
    assert not any({"Cookie", "Authorization", "Referer"} & set(headers) for headers in seen)


def test_an_operator_may_say_more_in_the_user_agent():
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=request.headers["User-Agent"].encode())

    settings = LOOPBACK.model_copy(update={"user_agent": "(https://example.org/bot; bot@example.org)"})
    said = f"face-avatar/{serve_app.__version__} (https://example.org/bot; bot@example.org)"
    assert fetch_from(echo, settings) == said.encode()


@pytest.mark.parametrize("text", ["a\r\nX-Header: b", "ä", "x" * 201])
def test_a_user_agent_that_is_no_header_is_refused(text):
    with pytest.raises(ValueError, match="user_agent"):
        FetchSettings(user_agent=text)


def test_one_fetcher_fetches_several_photos_at_once():
    async def main() -> None:
        async with http_server(photo) as port:
            fetcher = PhotoFetcher(LOOPBACK)
            urls = [f"http://127.0.0.1:{port}/{i}" for i in range(5)]
            assert await asyncio.gather(*map(fetcher.fetch, map(PhotoSource, urls))) == [PHOTO] * 5

    run(main())


@pytest.mark.parametrize(("name", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_an_answer_that_is_compressed_all_the_same_is_inflated(name, compress):
    async def compressed(_: web.Request) -> web.Response:
        return web.Response(body=compress(PHOTO), headers={"Content-Encoding": name})

    assert fetch_from(compressed) == PHOTO


HTML = "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<!DOCTYPE html><title>A photo</title>", HTML),
        (b"<!doctype HTML>", "image/jpeg"),
        (b"\xef\xbb\xbf\r\n\t <html lang=en>", "application/octet-stream"),
        (b"<html>", "image/png"),
        (b"<HEAD><title>", "image/png"),
        (b"<body class=a>", "image/png"),
        (b"<script>location = '/'</script>", "image/png"),
        (b"<!-- a comment -->" * 500, "image/png"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0">', "image/png"),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">', "application/xhtml+xml"),
        (b"Please log in.", HTML),
        (b"", HTML),
        ("Bitte anmelden: Zugang f\u00fcr G\u00e4ste".encode(), HTML),
    ],
)
def test_a_web_page_is_said_to_be_one(body, content_type):
    async def page(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": content_type})

    with pytest.raises(ImageUrlError, match="link to the file itself") as caught:
        fetch_from(page)
    assert caught.value.data["reason"] == "not_an_image"


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("content_type", [HTML, "image/jpeg", "text/plain"])
def test_a_photo_is_no_web_page_whatever_its_server_calls_it(name, content_type):
    picture = BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, name)

    async def photo_as(_: web.Request) -> web.Response:
        return web.Response(body=picture.getvalue(), headers={"Content-Type": content_type})

    assert fetch_from(photo_as) == picture.getvalue()


@pytest.mark.parametrize(
    "body", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<?xml version='1.0'?><svg/>", b"text"]
)
def test_text_that_is_no_page_is_left_to_the_decoder(body):
    async def text(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": "image/svg+xml"})

    assert fetch_from(text) == body


# Size


def test_a_photo_of_exactly_the_limit_passes_and_one_byte_more_does_not():
    async def sized(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * int(request.path[1:]))

    assert len(fetch_from(sized, path="/100000")) == 100_000
    assert reason_from(sized, path="/100001") == "too_large"


def test_an_announced_length_over_the_limit_is_refused_before_any_body():
    async def main() -> ImageUrlError:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"
        async with raw_server(head) as (port, _):
            return await refusal(f"http://127.0.0.1:{port}/")

    assert run(main()).data["reason"] == "too_large"


def test_an_endless_body_is_cut_off():
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 10_000)

    assert reason_from(endless) == "too_large"


def test_a_gzip_bomb_is_never_inflated_beyond_the_limit(monkeypatch):
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < LOOPBACK.max_bytes
    made = []

    async def bombed(_: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    class Counting:
        def __init__(self, wbits: int) -> None:
            self.inflater = zlib.decompressobj(wbits)

        def decompress(self, data: bytes, max_length: int) -> bytes:
            assert max_length > 0  # 0 would mean no limit
            made.append(self.inflater.decompress(data, max_length))
            return made[-1]

    monkeypatch.setattr(fetch, "zlib", SimpleNamespace(decompressobj=Counting, MAX_WBITS=zlib.MAX_WBITS))
    assert reason_from(bombed) == "too_large"
    assert sum(map(len, made)) == LOOPBACK.max_bytes + 1


@pytest.mark.parametrize(
    "encoding",
    [
        "",
        " ",
        ",",
        "identity",
        "IDENTITY",
        "identity, identity",
        "none",
        "binary",
        "utf-8",
        "UTF-8",
        "base64",
        "aws-chunked",
        "aws-chunked, identity",
        "aws-chunked,",
    ],
)
def test_an_encoding_that_means_nothing_is_ignored(encoding):
    async def sent_as_it_is(_: web.Request) -> web.Response:
        return web.Response(body=PHOTO, headers={"Content-Encoding": encoding})

    async def compressed_too(_: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(PHOTO), headers={"Content-Encoding": f"{encoding},x-gzip"})

    assert fetch_from(sent_as_it_is) == PHOTO
    assert fetch_from(compressed_too) == PHOTO


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x", "base64, br", "gzip, deflate"])
def test_an_unknown_compression_is_refused(encoding):
    async def compressed(_: web.Request) -> web.Response:
        return web.Response(body=b"x", headers={"Content-Encoding": encoding})

    assert reason_from(compressed) == "encoding"


# Time


def test_a_server_that_does_not_answer_times_out():
    assert reason_from(forever, FetchSettings(allow_private=True, timeout_s=0.05)) == "timeout"


def test_a_body_that_stops_midway_times_out():
    async def stalled(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        return await forever(request)

    assert reason_from(stalled, FetchSettings(allow_private=True, timeout_s=0.05)) == "timeout"


def test_the_deadline_covers_redirects_too():
    async def hop(request: web.Request) -> web.Response:
        if request.path == "/photo":
            raise web.HTTPFound("/slow")
        return await forever(request)

    assert reason_from(hop, FetchSettings(allow_private=True, timeout_s=0.2)) == "timeout"


def test_a_cancelled_fetch_is_cancelled_and_not_an_error_of_the_client():
    async def main() -> None:
        asked = asyncio.Event()

        async def asked_forever(request: web.Request) -> web.Response:
            asked.set()
            return await forever(request)

        async with http_server(asked_forever) as port:
            task = asyncio.create_task(fetched(f"http://127.0.0.1:{port}/"))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


# Answers


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 400, 401, 403, 404, 410, 418, 500, 503])
def test_any_status_but_200_is_refused_by_number_and_without_its_text(status):
    async def failing(_: web.Request) -> web.Response:
        return web.Response(status=status, reason="secret", headers={"X-Secret": "secret"})

    with pytest.raises(ImageUrlError) as caught:
        fetch_from(failing)
    assert caught.value.data["reason"] == "status"
    assert str(status) in str(caught.value)
    assert "secret" not in repr(caught.value.data)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"-ERR unknown command 'GET'\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"\x00\xff" * 100,
    ],
)
def test_a_broken_answer_is_an_unreachable_server(answer):
    async def main() -> ImageUrlError:
        async with raw_server(answer) as (port, _):
            return await refusal(f"http://127.0.0.1:{port}/")

    assert run(main()).data["reason"] == "unreachable"


def test_https_is_verified():
    async def main() -> ImageUrlError:
        async with raw_server(b"plain") as (port, _):
            return await refusal(f"https://127.0.0.1:{port}/")

    assert run(main()).data["reason"] == "unreachable"


def test_an_unknown_name_and_a_closed_port_are_unreachable():
    async def main() -> list[str]:
        async with raw_server(b"") as (port, _):
            pass  # closed again: nobody listens there
        errors = [
            await refusal("http://nowhere.test/", FetchSettings(), FixedResolver()),
            await refusal(f"http://127.0.0.1:{port}/"),
            await refusal(f"http://{'a' * 64}.test/"),  # a label that no name can have
        ]
        return [error.data["reason"] for error in errors]

    assert run(main()) == ["unreachable"] * 3
