"""URLs of photos, data: URLs among them, and how they are shown."""

import asyncio
import base64
import pickle
from contextlib import suppress

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import ImageUrlError
from serve_app.photos.fetch import PhotoFetcher
from serve_app.photos.resolver import AT_ONCE_OF_OWNER, NameLookups
from serve_app.photos.source import PhotoSource
from serve_app.photos.urls import MAX_URL_CHARS, FetchSettings, check_url, decode_data_url, describe_url
from tests.support.photo_fetches import (
    LOOPBACK,
    PHOTO,
    fetched,
    http_server,
    photo,
    raw_server,
    refusal,
    run,
)
from tests.support.polling import eventually
from tests.support.resolvers import name_server

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
