"""Redirects of photos: how many, and that each is checked like the first URL."""

import asyncio

import pytest
from aiohttp import web

from serve_app.errors import ImageUrlError
from tests.support.photo_fetches import (
    PHOTO,
    fetch_from,
    fetched,
    photo,
    reason_from,
    run,
)


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
