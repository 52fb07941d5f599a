"""The guarded fetch of the photo that a client names: a stranger chooses the URL, so nothing in it is trusted.

Every address that is connected to is checked at the socket. A host name, a number in an odd notation, a redirect and a
second DNS answer all end there, so no way of writing an address needs to be recognised in the URL itself.
"""

import asyncio
import socket
import zlib
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver

from serve_app.errors import ImageUrlError
from serve_app.photos.urls import (
    CLIENT_ERRORS,
    FetchSettings,
    check_url,
    decode_data_url,
    is_data_url,
    is_refused,
    photo_too_large,
)

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


class RefusedAddressError(OSError):
    """Raised in place of a connection; an OSError, so that the other addresses of a name are still tried."""


class PhotoFetcher:
    """Fetches `http:`, `https:` and `data:` URLs. Belongs to the event loop on which it first fetches."""

    def __init__(self, settings: FetchSettings, resolver: AbstractResolver | None = None) -> None:
        self._settings = settings
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str) -> bytes:
        """The bytes behind `url`, whatever they are. Raises ImageUrlError."""
        if is_data_url(url):
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
            raise photo_too_large(max_bytes)
        async for chunk in response.content.iter_any():
            # One byte over the limit is enough to know; the rest of a bomb is never inflated.
            body += chunk if inflater is None else inflater.decompress(chunk, max_bytes + 1 - len(body))
            if len(body) > max_bytes:
                raise photo_too_large(max_bytes)
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
