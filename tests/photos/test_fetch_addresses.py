"""Addresses that photos may come from: nothing may arrive at a canary on loopback."""

import socket
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from serve_app.photos import fetch
from serve_app.photos.urls import FetchSettings, is_refused
from tests.support.photo_fetches import PHOTO, fetched, http_server, photo, raw_server, refusal, run
from tests.support.resolvers import FixedResolver

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
