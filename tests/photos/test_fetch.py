import asyncio
import base64
import gzip
import pickle
import socket
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import serve_app
from serve_app.errors import ImageUrlError
from serve_app.photos import fetch
from serve_app.photos.fetch import PhotoFetcher
from serve_app.photos.resolver import AT_ONCE_OF_OWNER, NameLookups
from serve_app.photos.source import PhotoSource
from serve_app.photos.urls import MAX_URL_CHARS, FetchSettings, check_url, decode_data_url, describe_url, is_refused
from tests.support.polling import eventually
from tests.support.resolvers import FixedResolver, name_server

LOOPBACK = FetchSettings(allow_private=True, max_bytes=100_000)
PHOTO = bytes(range(256)) * 300  # the fetcher does not look into it

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_server(handler: Handler):
    """The port of a real server that answers every path with `handler`."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(answer: bytes):
    """The port of a server on every address that sends `answer`, whatever it is asked, and its connections so far."""
    connections: list[str] = []

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer.get_extra_info("sockname")[0])
        writer.write(answer)
        writer.close()

    async with AsyncExitStack() as servers:
        v4 = await servers.enter_async_context(await asyncio.start_server(connected, "0.0.0.0", 0))
        port = v4.sockets[0].getsockname()[1]
        with suppress(OSError):  # a machine without IPv6
            await servers.enter_async_context(await asyncio.start_server(connected, "::", port))
        yield port, connections


async def fetched(url: str, limits: FetchSettings = LOOPBACK, resolver: AbstractResolver | None = None) -> bytes:
    return await PhotoFetcher(limits, None if resolver is None else lambda _owner: resolver).fetch(PhotoSource(url))


async def refusal(
    url: str, limits: FetchSettings = LOOPBACK, resolver: AbstractResolver | None = None
) -> ImageUrlError:
    with pytest.raises(ImageUrlError) as caught:
        await fetched(url, limits, resolver)
    return caught.value


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def fetch_from(handler: Handler, limits: FetchSettings = LOOPBACK, path: str = "/photo") -> bytes:
    async def main() -> bytes:
        async with http_server(handler) as port:
            return await fetched(f"http://127.0.0.1:{port}{path}", limits)

    return run(main())


def reason_from(handler: Handler, limits: FetchSettings = LOOPBACK, path: str = "/photo") -> str:
    with pytest.raises(ImageUrlError) as caught:
        fetch_from(handler, limits, path)
    return caught.value.data["reason"]


async def photo(_: web.Request) -> web.Response:
    return web.Response(body=PHOTO, content_type="image/jpeg")


async def forever(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


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


# Redirects


def test_ten_redirects_are_followed_and_an_eleventh_is_not():
    async def countdown(request: web.Request) -> web.Response:
        left = int(request.path[1:])
        return await photo(request) if left == 0 else web.Response(status=307, headers={"Location": str(left - 1)})

    assert fetch_from(countdown, path="/10") == PHOTO
    assert reason_from(countdown, path="/11") == "redirects"


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file:///etc/passwd", "scheme"),
        ("ftp://127.0.0.1/", "scheme"),
        ("gopher://127.0.0.1/", "scheme"),
        ("data:image/png;base64,AAAA", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("http://user@127.0.0.1/", "userinfo"),
        ("http://127.0.0.1\\@example.test/", "url"),
        ("http://[::1", "url"),
        ("//[::1", "url"),
        ("http://a b/", "url"),
        ("http:", "url"),
        ("http:///a", "url"),
        ("/missing", "status"),
        ("http://127.0.0.1:1/", "unreachable"),
    ],
)
def test_every_redirect_is_checked_like_the_first_url_and_its_error_speaks_of_the_redirect(location, reason):
    async def redirect(request: web.Request) -> web.Response:
        if request.path == "/missing":
            raise web.HTTPNotFound
        return web.Response(status=302, headers={"Location": location})

    with pytest.raises(ImageUrlError, match=r"^after a redirect of the URL: ") as caught:
        fetch_from(redirect)
    assert caught.value.data["reason"] == reason


def test_an_error_counts_the_redirects_before_it():
    async def countdown(request: web.Request) -> web.Response:
        left = int(request.path[1:])
        raise web.HTTPFound(str(left - 1)) if left else web.HTTPForbidden

    with pytest.raises(ImageUrlError, match=r"^after 3 redirects of the URL: .* 403"):
        fetch_from(countdown, path="/3")
    with pytest.raises(ImageUrlError, match=r"^the URL answered with HTTP status 403"):
        fetch_from(countdown, path="/0")


@pytest.mark.parametrize(
    ("location", "requested"),
    [
        (b"/next", b"/next"),
        (b" /next ", b"/next"),
        (b"/a b/c  d?e f", b"/a%20b/c%20%20d?e%20f"),
        (b"sub/next", b"/photo/sub/next"),
        (b"../next", b"/next"),
        (b"?a=%27%2f", b"/photo/first?a=%27%2f"),
        (b"/%27%2F%2f?x=a+b%20c'", b"/%27%2F%2f?x=a+b%20c'"),
        (b"/a/./../b;", b"/a/./../b;"),
        (b"http://HOST/a/../b%27;?x=%2F#part", b"/a/../b%27;?x=%2F"),
        (b"//HOST/next?%2F", b"/next?%2F"),
        ("/b\u00fccher".encode(), b"/b%C3%BCcher"),
        ("/b\u00fccher".encode("latin-1"), b"/b%FCcher"),
        (b"/\xff\xfe?\x80", b"/%FF%FE?%80"),
    ],
)
def test_a_location_is_requested_as_it_was_written(location, requested):
    async def main() -> list[bytes]:
        targets: list[bytes] = []

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            targets.append((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
            there = location.replace(b"HOST", b"127.0.0.1:%d" % writer.get_extra_info("sockname")[1])
            redirect = b"HTTP/1.1 302 Found\r\nLocation: " + there + b"\r\nContent-Length: 0\r\n\r\n"
            writer.write(redirect if len(targets) == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\x00")
            writer.close()

        async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
            await fetched(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/photo/first")
        return targets

    assert run(main()) == [b"/photo/first", requested]


def test_a_redirect_without_a_target_is_a_wrong_status():
    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=302)

    assert reason_from(redirect) == "status"


# Addresses: nothing may arrive at a canary on loopback

CANARY_URLS = [
    "http://127.0.0.1:{port}/",
    "HTTP://127.0.0.1:{port}/",
    "https://127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}",
    "http:127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "http://127.0.0.2:{port}/",
    "http://127.255.255.254:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://2130706433:{port}/",
    "http://017700000001:{port}/",
    "http://0x7f000001:{port}/",
    "http://0X7F000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://0x7f.1:{port}/",
    "http://127.0x0.00.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://127.0.0.1..:{port}/",
    "http://0127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "http://localhost...:{port}/",
    "http://ｌｏｃａｌｈｏｓｔ:{port}/",
    "http://ⓛocalhost:{port}/",
    "http://１２７.０.０.１:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://127。0。0。1:{port}/",
    "http://١٢٧.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.test/",
    "http://127.0.0.1:{port}?@example.test/",
    "http://example.test@127.0.0.1:{port}/",
    "http://example.test:80@127.0.0.1:{port}/",
    "http://@127.0.0.1:{port}/",
    "http://:@127.0.0.1:{port}/",
    "http://a@b@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@example.test/",
    "http:\\\\127.0.0.1:{port}\\",
    "http://127.0.0.1%00.example.test:{port}/",
    "http://127.0.0.1\x00.example.test:{port}/",
    "http://127.0.0.1%0d%0a:{port}/",
    "http://127.0.0.1:{port}/\r\nHost: example.test",
    "http://127.0.0.1\t:{port}/",
    "http://127.0\n.0.1:{port}/",
    " http://127.0.0.1:{port}/",
    "http:// 127.0.0.1:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://127%2e0%2e0%2e1:{port}/",
    "http://127.0.0.1%2f:{port}/",
    "http://127.0.0.1\u00ad:{port}/",
    "http://127.0.0.1\u200b:{port}/",
    "http://[::]:{port}/",
    "http://[::1]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::1%25lo]:{port}/",
    "http://[::1%lo]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::ffff:0:127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::]:{port}/",
    "http://[2001:4860::5efe:127.0.0.1]:{port}/",
    "http://[2a00:1450::200:5efe:7f00:1]:{port}/",
    "http://[0000:0000:0000:0000:0000:ffff:127.0.0.1]:{port}/",
    "http://[::FFFF:127.1]:{port}/",
    "http://[fe80::1]:{port}/",
    "http://[fe80::1%251]:{port}/",
    "http://[fec0::1]:{port}/",
    "http://[fd00::1]:{port}/",
    "http://[ff02::1]:{port}/",
    "http://[127.0.0.1]:{port}/",
    "http://[::1]127.0.0.1:{port}/",
    "http://[v1.127]:{port}/",
    "http://169.254.169.254:{port}/latest/meta-data/",
    "http://168.63.129.16:{port}/",
    "http://100.100.100.200:{port}/",
    "http://10.0.0.1:{port}/",
    "http://192.168.0.1:{port}/",
    "http://172.16.0.1:{port}/",
    "http://224.0.0.1:{port}/",
    "http://255.255.255.255:{port}/",
    "file:///etc/passwd",
    "file://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_GET",
    "dict://127.0.0.1:{port}/",
    "ldap://127.0.0.1:{port}/",
    "ws://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "jar:http://127.0.0.1:{port}!/",
    "view-source:http://127.0.0.1:{port}/",
    "url:http://127.0.0.1:{port}/",
    "data:text/html,<meta http-equiv=refresh content='0;url=http://127.0.0.1:{port}/'>",
    "data://127.0.0.1:{port}/;base64,AAAA",
    "http://0xffffffff7f000001:{port}/",
    "http://4429185025:{port}/",
    "http://0x7f.0x0.0x0.0x1:{port}/",
    "http://00000177.0.0.01:{port}/",
    "http://127.0.1.:{port}/",
    "http://127。1:{port}/",
    "http://127.0.0.1\u3002:{port}/",
    "http://loc\u00adalhost:{port}/",
    "http://xn--localhost:{port}/",
    "http://localhost%20:{port}/",
    "http://localhost\x0b:{port}/",
    "http://127.0.0.1:{port};@example.test/",
    "http://127.0.0.1:{port}%2f@example.test/",
    "http://example.test\uff0f@127.0.0.1:{port}/",
    "http://example.test%40127.0.0.1:{port}/",
    "http://127.0.0.1:0{port}/",
    "http://127.0.0.1:+{port}/",
    "http://127.0.0.1:{port}:80/",
    "http://[::1]:{port}:80/",
    "http://[::1]@example.test:{port}/",
    "http://[[::1]]:{port}/",
    "http://[::1:{port}/",
    "http://::1:{port}/",
    "",
    "http://",
    "http://:{port}/",
    "http://.:{port}/",
    "http://xn--:{port}/",
]


class LocalNames(AbstractResolver):
    """The system's resolver for what it answers without a name server; nothing else exists."""

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        if host.rstrip(".") == "localhost":
            return await FixedResolver("127.0.0.1", "::1").resolve(host, port)
        try:
            address = socket.inet_ntoa(socket.inet_aton(host))  # the odd notations, as getaddrinfo reads them
        except OSError:
            raise OSError("no such name") from None
        return await FixedResolver(address).resolve(host, port)

    async def close(self) -> None:
        pass


def test_no_way_of_writing_an_address_reaches_a_canary_on_loopback():
    assert len(CANARY_URLS) >= 60

    async def main() -> None:
        async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret") as (port, connections):
            limits = FetchSettings(ports=(80, 443, port))
            for url in CANARY_URLS:
                error = await refusal(url.format(port=port), limits, LocalNames())
                assert "127.0" not in error.data["message"], url
                assert "secret" not in repr(error.data), url
            assert connections == []
            # The canary does sing where it is allowed.
            allowed = FetchSettings(allow_private=True)
            assert await fetched(f"http://0x7f.1:{port}/", allowed, LocalNames()) == b"secret"
            assert connections == ["127.0.0.1"]

    run(main())


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "::1"], ["10.0.0.1", "169.254.169.254", "::1"]])
def test_a_public_name_of_refused_addresses_is_refused_and_they_are_not_named(addresses):
    async def main() -> None:
        async with raw_server(b"") as (port, connections):
            error = await refusal(f"http://evil.test:{port}/", FetchSettings(ports=(port,)), FixedResolver(*addresses))
            assert error.data["reason"] == "address"
            assert not any(address in repr(error.data) for address in addresses)
            assert error.__cause__ is None
            assert error.__suppress_context__
            assert connections == []

    run(main())


def test_the_refused_addresses_of_a_name_are_skipped_for_its_public_one(monkeypatch):
    monkeypatch.setattr(fetch, "is_refused", lambda address: address != "127.0.0.1")

    async def main() -> bytes:
        async with http_server(photo) as port:
            resolver = FixedResolver("10.0.0.1", "127.0.0.1")
            return await fetched(f"http://mixed.test:{port}/", FetchSettings(ports=(port,)), resolver)

    assert run(main()) == PHOTO


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{port}/", "//0x7f.1:{port}/", "http://rebound.test:{port}/", "http://[::1]:{port}/"]
)
def test_a_redirect_or_a_rebound_name_does_not_reach_the_canary(monkeypatch, location):
    verdicts = iter([False])  # the first connection passes for a public one, the next meets the real check
    monkeypatch.setattr(fetch, "is_refused", lambda address: next(verdicts, True) and is_refused(address))

    async def main() -> None:
        async with raw_server(b"") as (canary, connections):

            async def redirect(_: web.Request) -> web.Response:
                return web.Response(status=302, headers={"Location": location.format(port=canary)})

            async with http_server(redirect) as port:
                limits = FetchSettings(ports=(port, canary))
                error = await refusal(f"http://rebound.test:{port}/", limits, FixedResolver("127.0.0.1"))
            assert error.data["reason"] == "address"
            assert connections == []

    run(main())


class FirstThenLoopback(LocalNames):
    """`first.test` is the server of the test; every other name is what `LocalNames` says."""

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        if host == "first.test":
            return await FixedResolver("127.0.0.1").resolve(host, port)
        return await super().resolve(host, port)


def test_no_redirect_reaches_a_canary_however_its_address_is_written(monkeypatch):
    async def main() -> None:
        async with raw_server(b"") as (canary, connections):
            locations = iter([url.format(port=canary) for url in CANARY_URLS])

            async def redirect(_: web.Request) -> web.Response:
                # Without what no header can carry.
                location = next(locations).translate(dict.fromkeys((0, 10, 13)))
                return web.Response(status=302, headers={"Location": location})

            async with http_server(redirect) as port:
                for url in CANARY_URLS:
                    # The first connection passes for a public one, the next meets the real check.
                    verdicts = iter([False])
                    monkeypatch.setattr(fetch, "is_refused", lambda a, v=verdicts: next(v, True) and is_refused(a))
                    limits = FetchSettings(ports=(port, 80, 443, canary), max_redirects=1)
                    error = await refusal(f"http://first.test:{port}/", limits, FirstThenLoopback())
                    assert error.data["reason"] != "timeout", url
            assert next(locations, None) is None
            assert connections == []

    run(main())


class Rebinding(AbstractResolver):
    """Another address at every look-up."""

    def __init__(self, *addresses: str) -> None:
        self.left = list(addresses)

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        return await FixedResolver(self.left.pop(0)).resolve(host, port)

    async def close(self) -> None:
        pass


def test_a_name_that_moves_to_loopback_between_two_connections_does_not_reach_it(monkeypatch):
    # 127.0.0.1 stands for a public address; the canary listens on 127.0.0.2 too.
    monkeypatch.setattr(fetch, "is_refused", lambda address: address != "127.0.0.1" and is_refused(address))

    async def main() -> None:
        async with raw_server(b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n") as (port, connections):
            resolver, limits = Rebinding("127.0.0.1", "127.0.0.2"), FetchSettings(ports=(port,))
            errors = [await refusal(f"http://rebound.test:{port}/", limits, resolver) for _ in range(2)]
            assert [error.data["reason"] for error in errors] == ["redirects", "address"]
            assert connections == ["127.0.0.1"] * 11  # the first fetch and its redirects, by what was looked up once

    run(main())


REFUSED = """
0.0.0.0 0.1.2.3 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.255 168.63.129.16 169.254.0.1
169.254.169.254 172.16.0.0 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1
192.168.255.255 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
255.255.255.255 :: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:0:8.8.8.8
::ffff:8.8.8.8 ::ffff:0808:0808 2001:4860::5efe:8.8.8.8 2a00:1450::200:5efe:808:808 fd20:ce::254 192.0.0.8
100.100.100.200 169.254.170.2 2001:4:112::1 100:0:0:1::1
64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 2001::1 2001:0:1::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::
2002:808:808:: 2620:4f:8000::1 3ffe::1 3fff::1 5f00::1 4000::1 8000::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0
febf::1 fec0::1 feff::1 ff02::1 not-an-address 127.1
"""

PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15 168.63.129.17
169.253.255.255 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.1 192.167.255.255 192.169.0.0 198.17.255.255
198.20.0.0 223.255.255.255 2001:4860::5eff:808:808 2001:200::1 2001:4860:4860::8888 2003::1 2606:4700::1111 2a00:1450::1
"""


@pytest.mark.parametrize("address", REFUSED.split())
def test_an_address_that_is_not_public_is_refused(address):
    assert is_refused(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_public_address_beside_the_refused_ranges_is_not(address):
    assert not is_refused(address)


# URLs


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.test:8080/", "port"),
        ("https://example.test:22/", "port"),
        ("http://example.test:0/", "port"),
        ("http://example.test:65536/", "url"),
        ("http://example.test:-1/", "url"),
        ("http://example.test:x/", "url"),
        ("http://user:secret@example.test/", "userinfo"),
        ("http://@example.test/", "userinfo"),
        ("http://exa mple.test/", "url"),
        ("http://example.test /", "url"),
        ("http:// example.test/", "url"),
        ("http ://example.test/", "scheme"),
        ("http://example.test:80 /", "url"),
        ("http://exa\u00a0mple.test/", "url"),
        ("http://example.test/a\nb", "url"),
        ("http://example.test/a\tb", "url"),
        ("http://example.test/a\\b", "url"),
        ("http://example.test/\x85a", "url"),
        ("http://example.test/\x00", "url"),
        ("http://example.test/\ud800", "url"),
        ("http://example.test/" + "a" * MAX_URL_CHARS, "url"),
        ("http://[::1/", "url"),
        ("ftp://example.test/", "scheme"),
        ("", "scheme"),
    ],
)
def test_a_url_that_may_not_be_fetched_is_refused_with_its_reason(url, reason):
    with pytest.raises(ImageUrlError) as caught:
        check_url(url, FetchSettings())
    assert caught.value.data["reason"] == reason
    assert "secret" not in repr(caught.value.data)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://example.test", "example.test", 80),
        ("HTTPS://EXAMPLE.test/a.png?x=1#y", "example.test", 443),
        ("http://example.test:443/", "example.test", 443),
        ("http://bücher.test/ü.png", "xn--bcher-kva.test", 80),
        ("http://under_score.test/", "under_score.test", 80),
        ("http://example.test/@someone/a.png", "example.test", 80),
        ("http://[2606:4700::1111]/", "2606:4700::1111", 80),
    ],
)
def test_an_ordinary_url_may_be_fetched(url, host, port):
    checked = check_url(url, FetchSettings())
    assert (checked.raw_host, checked.port) == (host, port)


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("/a.png", "/a.png"),
        ("", "/"),
        ("?a=1", "/?a=1"),
        ("/#part", "/"),
        ("/it%27s%2Fone%2fname", "/it%27s%2Fone%2fname"),
        ("/it's(1)*!,;:@&=$+[]{}|^`\"<>", "/it's(1)*!,;:@&=$+[]{}|^`\"<>"),
        (
            "/a?X-Amz-Credential=K%2F20260101%2Feu&X-Amz-Signature=0a%3D",
            "/a?X-Amz-Credential=K%2F20260101%2Feu&X-Amz-Signature=0a%3D",
        ),
        ("/a?b=c+d%20e%2Bf", "/a?b=c+d%20e%2Bf"),
        ("/a?b=%41%7e~", "/a?b=%41%7e~"),
        ("/a?b=1?c=2&&d", "/a?b=1?c=2&&d"),
        ("/100%", "/100%"),
        ("/%zz%", "/%zz%"),
        ("/a/./b/../c//d", "/a/./b/../c//d"),
        ("/a%2e%2E/b", "/a%2e%2E/b"),
        ("/my photo 1.png?a b", "/my%20photo%201.png?a%20b"),
        ("/b\u00fccher/\u732b.png?n=\u00e9", "/b%C3%BCcher/%E7%8C%AB.png?n=%C3%A9"),
        ("/a\u00a0b", "/a%C2%A0b"),
        ("/\U0001f600", "/%F0%9F%98%80"),
    ],
)
@pytest.mark.parametrize("around", ["", " ", "\n", "\r\n\t \u00a0"])
def test_path_and_query_go_out_byte_for_byte(url, requested, around):
    targets = []

    async def spy(request: web.Request) -> web.Response:
        assert request.transport is not None
        targets.append(request.raw_path)
        return web.Response(body=PHOTO)

    async def main() -> None:
        async with http_server(spy) as port:
            await fetched(f"{around}http://127.0.0.1:{port}{url}{around}")

    run(main())
    assert targets == [requested]


def test_the_name_of_a_host_is_looked_up_and_sent_in_ascii():
    hosts = []

    async def spy(request: web.Request) -> web.Response:
        hosts.append(request.host)
        return web.Response(body=PHOTO)

    async def main() -> None:
        async with http_server(spy) as port, name_server({"xn--bcher-kva.test": ["127.0.0.1"]}) as names:
            limits = FetchSettings(allow_private=True, name_servers=(names.address,))
            assert await fetched(f"http://B\u00fccher.test:{port}/\u00fc.png", limits) == PHOTO
            assert hosts == [f"xn--bcher-kva.test:{port}"]

    run(main())


def test_fifty_photos_at_slow_names_do_not_delay_one_at_a_good_name(monkeypatch):
    for name in ("LOOKUP_S", "TRY_S"):
        monkeypatch.setattr(f"serve_app.photos.resolver.{name}", 3600.0)

    async def main() -> None:
        async with http_server(photo) as port, name_server({"good.test": ["127.0.0.1"]}) as names:
            fetcher = PhotoFetcher(FetchSettings(allow_private=True, name_servers=(names.address,), timeout_s=3600))
            slow = [
                asyncio.create_task(fetcher.fetch(PhotoSource(f"http://{i}.slow.test/"), "mallory")) for i in range(50)
            ]
            await eventually(lambda: asyncio.sleep(0, len(names.asked) == AT_ONCE_OF_OWNER))
            assert await fetcher.fetch(PhotoSource(f"http://good.test:{port}/"), "ann") == PHOTO
            assert not any(task.done() for task in slow)
            for task in slow:
                task.cancel()
            await asyncio.wait(slow)
            # No look-up is left of those that were cancelled: their owner has its slots again.
            assert await fetcher.fetch(PhotoSource(f"http://good.test:{port}/"), "mallory") == PHOTO
            assert len(names.asked) == AT_ONCE_OF_OWNER + 1

    run(main())


@pytest.mark.parametrize("host", ["private.test", "mixed.test", "localhost", "one.localhost"])
def test_addresses_from_a_name_server_or_the_hosts_file_are_checked(host):
    async def main() -> None:
        names = {"private.test": ["127.0.0.1", "10.0.0.1", "::1"], "mixed.test": ["169.254.169.254", "fd00::1"]}
        async with raw_server(b"") as (port, connections), name_server(names) as server:
            error = await refusal(
                f"http://{host}:{port}/", FetchSettings(ports=(port,), name_servers=(server.address,))
            )
            assert error.data["reason"] == "address"
            assert connections == []

    run(main())


@pytest.mark.parametrize(
    ("name_servers", "fits"),
    [
        ([], True),
        (["10.0.0.2", "10.0.0.3:53"], True),
        (["2001:db8::2", "[2001:db8::2]", "[2001:db8::2]:5353"], True),
        (["dns.example.test"], False),
        (["10.0.0.2:0"], False),
        (["10.0.0.2:65536"], False),
        (["10.0.0.256"], False),
        (["[10.0.0.2:53"], False),
        ([""], False),
    ],
)
def test_name_servers_are_addresses_with_a_port_or_without(name_servers, fits):
    if fits:
        settings = FetchSettings(name_servers=name_servers)
        assert NameLookups(settings.name_servers)
    else:
        with pytest.raises(ValueError, match="name_servers"):
            FetchSettings(name_servers=name_servers)


def test_private_access_opens_every_port_but_no_other_scheme_or_user_info():
    assert check_url("http://127.0.0.1:8080/", LOOPBACK).port == 8080
    for url in ("file:///etc/passwd", "http://user@127.0.0.1/"):
        with pytest.raises(ImageUrlError):
            check_url(url, LOOPBACK)


URL_PIECES = st.sampled_from(
    ["http", "https", "data", ":", "//", "/", "@", "[", "]", "::1", "127.0.0.1", "%", "%00", "\\", "?", "#", ".", ":80"]
)
URL_LIKE = st.lists(URL_PIECES | st.text(max_size=5) | st.characters(), max_size=12).map("".join)


@settings(max_examples=250, deadline=None)
@given(st.text() | URL_LIKE | URL_LIKE.map("http://{}".format) | URL_LIKE.map("data:image/png;base64,{}".format))
def test_any_text_is_a_url_or_an_image_url_error(text):
    with suppress(ImageUrlError):
        check_url(text, FetchSettings())
    with suppress(ImageUrlError):
        decode_data_url("data:" + text, 1000)
    describe_url(text).encode("utf-8")


# data: URLs


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc", PHOTO, b"\xff\xef\xbe" * 9])
@pytest.mark.parametrize(
    "prefix",
    [
        "data:image/png;base64,",
        "DATA:image/PNG;charset=x;BASE64,",
        "data:image%2Fpng;base64,",
        " \ndata:image/png;base64,",
    ],
)
def test_a_data_url_gives_its_bytes(prefix, data):
    assert run(fetched(prefix + base64.b64encode(data).decode())) == data


def test_a_data_url_may_be_percent_encoded():
    data = b"\xff\xef\xbe\xff"
    encoded = base64.b64encode(data).decode()
    assert "/" in encoded
    assert "+" in encoded
    for escape in (("%2B", "%2F", "%3D"), ("%2b", "%2f", "%3d")):
        escaped = encoded.replace("+", escape[0]).replace("/", escape[1]).replace("=", escape[2])
        assert run(fetched(f"data:image/png;base64,{escaped}")) == data


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:", "url"),
        ("data:,hello", "url"),
        ("data:text/html;base64,AAAA", "not_an_image"),
        ("data:image;base64,AAAA", "not_an_image"),
        ("data:image/;base64,AAAA", "not_an_image"),
        ("data:image/svg+xml,<svg/>", "url"),
        ("data:image/png,AAAA", "url"),
        ("data:image/png;base64;x,AAAA", "url"),
        ("data:image/png;base64", "url"),
        ("data:image/png;base64,AAAAA", "url"),
        ("data:image/png;base64,AA==AA==", "url"),
        ("data:image/png;base64,%41%41%41%41", "url"),
        ("data:image/png;base64,ÄÄÄÄ", "url"),
        ("data:image/png;base64,\ud800", "url"),
    ],
)
def test_a_wrong_data_url_is_refused_with_its_reason(url, reason):
    assert run(refusal(url)).data["reason"] == reason


@pytest.mark.parametrize(("size", "fits"), [(99_999, True), (100_000, True), (100_001, False), (200_000, False)])
def test_a_data_url_has_the_same_limit_of_size(size, fits):
    url = "data:image/png;base64," + base64.b64encode(b"x" * size).decode()
    if fits:
        assert len(run(fetched(url))) == size
    else:
        assert run(refusal(url)).data["reason"] == "too_large"


# Descriptions


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.test/a/b.png?token=secret#secret", "https://example.test/a/b.png"),
        ("http://user:secret@example.test:8080/a", "http://example.test:8080/a"),
        ("http://secret@secret@example.test/a", "http://example.test/a"),
        ("http://secret\\@example.test/a", "http://example.test/a"),
        ("http://example.test?secret", "http://example.test"),
        ("http://example.test/@someone", "http://example.test/@someone"),
        ("http://example.test/\ud800", "http://example.test/?"),
        ("file:///secret", "(not an http, https or data URL)"),
        ("", "(not an http, https or data URL)"),
        ("data:image/png;base64,aGVsbG8=", "data:image/png (5 bytes)"),
        ("DATA:IMAGE/WEBP;x=secret;base64,aGVsbG8%3D", "data:image/webp (5 bytes)"),
        ("data:image/png;base64,", "data:image/png (0 bytes)"),
        (" https://example.test/a b.png\n", "https://example.test/a b.png"),
        ("data:image/svg+xml,secret", "data:image/svg+xml (6 bytes)"),
        ("data:<secret>;base64,aGVs", "data: (3 bytes)"),
    ],
)
def test_a_url_is_shown_without_its_secrets_and_a_data_url_without_its_picture(url, shown):
    assert describe_url(url) == shown


def test_an_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(ImageUrlError("too slow", reason="timeout", limit_s=10)))
    assert isinstance(error, ImageUrlError)
    assert error.data == {"message": "too slow", "reason": "timeout", "limit_s": 10}


def test_unknown_settings_are_refused_and_settings_do_not_change():
    with pytest.raises(ValueError, match="extra"):
        FetchSettings(allow_privat=True)
    with pytest.raises(ValueError, match="frozen"):
        FetchSettings().allow_private = True
