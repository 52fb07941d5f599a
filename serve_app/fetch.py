"""The guarded fetch of the photo that a client names: a stranger chooses the URL, so nothing in it is trusted.

Every address that is connected to is checked at the socket. A host name, a number in an odd notation, a redirect and a
second DNS answer all end there, so no way of writing an address needs to be recognised in the URL itself.
"""

import asyncio
import base64
import re
import socket
import zlib
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import unquote, urljoin

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from yarl import URL

from serve_app.errors import ImageUrlError

MAX_URL_CHARS = 8192  # of an http(s) URL; a data URL is bounded by `max_bytes`
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})

# Kept as a list because `ip_address.is_global` calls several of these global.
REFUSED_NETWORKS = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches loopback
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT, and the metadata service of one cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host agent
        "169.254.0.0/16",  # link-local, and the metadata services of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # automatic multicast tunnels
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        # Only 2000::/3 is global unicast. The rest holds ::, ::1, v4-compatible ::/96, NAT64 64:ff9b::/96 and
        # 64:ff9b:1::/48, v4-mapped ::ffff:0:0/96, discard 100::/64, segment routing 5f00::/16, unique local fc00::/7,
        # link-local fe80::/10, site-local fec0::/10 and multicast ff00::/8.
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",  # IETF protocol assignments: Teredo, ORCHID, benchmarking
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 holds any v4 address
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # the former 6bone
        "3fff::/20",  # documentation
    )
)

# The middle of an ISATAP address (RFC 5214), which holds any v4 address under any prefix: 0000:5efe or 0200:5efe.
ISATAP, ISATAP_MASK = 0x0000_5EFE, 0xFDFF_FFFF

# What aiohttp and yarl are known to throw for URLs and answers that they cannot handle.
CLIENT_ERRORS = (aiohttp.ClientError, OSError, ValueError, AssertionError, zlib.error)

_UNSAFE_CHARACTER = re.compile(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff]")
_USER_INFO = re.compile(r"[^/?#]*//[^/?#]*@")  # an empty one too, which yarl forgets
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]{0,63}")


class RefusedAddressError(OSError):
    """Raised in place of a connection; an OSError, so that the other addresses of a name are still tried."""


class FetchSettings(BaseModel):
    """Limits of one fetch, all redirects of it together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow_private: bool = False  # any address and any port: for development and closed networks only
    ports: tuple[int, ...] = (80, 443)
    max_redirects: int = 3
    timeout_s: PositiveFloat = 10.0
    max_bytes: PositiveInt = 10 * 1024 * 1024  # after decompression


class PhotoFetcher:
    """Fetches `http:`, `https:` and `data:` URLs. Belongs to the event loop on which it first fetches."""

    def __init__(self, settings: FetchSettings, resolver: AbstractResolver | None = None) -> None:
        self._settings = settings
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str) -> bytes:
        """The bytes behind `url`, whatever they are. Raises ImageUrlError."""
        if _is_data_url(url):
            return decode_data_url(url, self._settings.max_bytes)
        # The causes name resolved addresses, so they are cut off (`from None`) before anything can log them.
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._follow(url)
        except TimeoutError:
            raise ImageUrlError(
                f"the photo did not arrive within {self._settings.timeout_s:g} s", reason="timeout"
            ) from None
        except aiohttp.InvalidURL:
            raise ImageUrlError("this is not a URL", reason="url") from None
        except CLIENT_ERRORS as error:
            if isinstance(getattr(error, "os_error", None), RefusedAddressError):
                raise ImageUrlError("the URL leads to an address that is not public", reason="address") from None
            raise ImageUrlError(
                "the server of the URL could not be reached or broke off", reason="unreachable"
            ) from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _follow(self, url: str) -> bytes:
        for _ in range(self._settings.max_redirects + 1):
            target = check_url(url, self._settings)
            async with self._http().get(target, allow_redirects=False) as response:
                location = response.headers.get("Location")
                if response.status not in REDIRECT_STATUSES or location is None:
                    return await self._read(response)
            url = urljoin(str(target), location)
        raise ImageUrlError(f"more than {self._settings.max_redirects} redirects", reason="redirects")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise ImageUrlError(f"the URL answered with HTTP status {response.status}", reason="status")
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "deflate"):
            raise ImageUrlError("the answer is compressed in a way that was not asked for", reason="encoding")
        # 32: zlib tells gzip from deflate by itself
        inflater = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
        max_bytes = self._settings.max_bytes
        body = bytearray()
        if inflater is None and (response.content_length or 0) > max_bytes:
            raise _too_large(max_bytes)
        async for chunk in response.content.iter_any():
            # One byte over the limit is enough to know; the rest of a bomb is never inflated.
            body += chunk if inflater is None else inflater.decompress(chunk, max_bytes + 1 - len(body))
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
        return bytes(body)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Accept": "image/jpeg, image/png, image/webp", "Accept-Encoding": "identity"}
            self._session = guarded_session(self._settings, headers, self._resolver)
        return self._session


def guarded_session(
    settings: FetchSettings, headers: dict[str, str], resolver: AbstractResolver | None = None
) -> aiohttp.ClientSession:
    """A session that connects to public addresses only; for URLs that `check_url` has let through."""

    def guarded_socket(address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, sockaddr = address
        if not settings.allow_private and is_refused(str(sockaddr[0])):
            raise RefusedAddressError("refused address")
        return socket.socket(family, kind, protocol)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=resolver,
            socket_factory=guarded_socket,
            force_close=True,
            limit=0,  # whoever uses it bounds the concurrency; a queue here would eat the deadline
        ),
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # whoever uses it has one deadline for all
        auto_decompress=False,
        trust_env=False,
    )


def check_url(text: str, settings: FetchSettings) -> URL:
    """Parses an http(s) URL that may be fetched; its address is checked later, at the socket. Raises ImageUrlError."""
    if len(text) > MAX_URL_CHARS:
        raise ImageUrlError(f"a URL has at most {MAX_URL_CHARS} characters", reason="url")
    if _UNSAFE_CHARACTER.search(text):
        raise ImageUrlError("a URL holds no spaces, control characters or backslashes", reason="url")
    if _USER_INFO.match(text):
        raise ImageUrlError("a URL with a user name or password is not fetched", reason="userinfo")
    try:
        url = URL(text)
        host, port = url.raw_host, url.port
    except CLIENT_ERRORS:
        raise ImageUrlError("this is not a URL", reason="url") from None
    if url.scheme not in ("http", "https"):
        raise ImageUrlError("the URL is none of http, https or data", reason="scheme")
    if not host or not _HOST.fullmatch(host):
        raise ImageUrlError("the URL has no valid host", reason="url")
    if port not in settings.ports and not settings.allow_private:
        allowed = " or ".join(map(str, settings.ports))
        raise ImageUrlError(f"the port of the URL is not {allowed}", reason="port", ports=list(settings.ports))
    return url


def is_refused(address: str) -> bool:
    """Whether a numeric address is none that a photo of the public internet can have."""
    try:
        ip = ip_address(address.partition("%")[0])  # without the IPv6 zone
    except ValueError:
        return True
    if ip.version == 6 and (int(ip) >> 32) & ISATAP_MASK == ISATAP:
        return True
    return any(ip in network for network in REFUSED_NETWORKS)


def decode_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes of a `data:image/...;base64,` URL. Raises ImageUrlError."""
    media_type, is_base64, payload = _split_data_url(url)
    if not media_type.startswith("image/"):
        raise ImageUrlError("the data URL is not an image: data:image/...;base64, is expected", reason="not_an_image")
    if not is_base64:
        raise ImageUrlError("the data URL is not base64: data:image/...;base64, is expected", reason="url")
    if len(payload) > 4 * (max_bytes // 3 + 1):
        raise _too_large(max_bytes)
    try:
        data = base64.b64decode(payload.encode("ascii"), validate=True)
    except ValueError:
        raise ImageUrlError("the data URL holds invalid base64", reason="url") from None
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


def describe_url(url: str) -> str:
    """What the envelope shows of any `file_url`: no query, fragment or user info, and no picture. Never raises."""
    if _is_data_url(url):
        media_type, is_base64, payload = _split_data_url(url)
        size = len(payload) * 3 // 4 - payload[-2:].count("=") if is_base64 else len(payload)
        return f"data:{media_type} ({max(size, 0)} bytes)"
    match = re.match(r"(https?)://([^/?#]*)([^?#]*)", url[:MAX_URL_CHARS], re.IGNORECASE)
    if match is None:
        return "(not an http, https or data URL)"
    scheme, authority, path = match.groups()
    shown = f"{scheme}://{authority.rpartition('@')[2]}{path}"
    return shown.encode("utf-8", "replace").decode()  # JSON can hold lone surrogates, an answer in UTF-8 cannot


def _is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def _split_data_url(url: str) -> tuple[str, bool, str]:
    """Media type (empty where it is none), whether it is base64, and the payload with its escapes undone."""
    header, comma, payload = url[5:].partition(",")
    media_type, *parameters = unquote(header[:1024]).lower().split(";")
    # RFC 2397 allows escapes. Base64 has three characters that anybody escapes, and replacing those is fast on a
    # payload made of nothing but escapes, where a general decoder takes seconds and hundreds of megabytes.
    if "%" in payload:
        for escaped, character in (("%2B", "+"), ("%2F", "/"), ("%3D", "=")):
            payload = payload.replace(escaped, character).replace(escaped.lower(), character)
    is_base64 = bool(comma) and parameters[-1:] == ["base64"]
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else "", is_base64, payload


def _too_large(max_bytes: int) -> ImageUrlError:
    return ImageUrlError(f"a photo has at most {max_bytes} bytes", reason="too_large", max_bytes=max_bytes)
