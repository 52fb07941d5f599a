"""Fetches photos by URL, guarded against SSRF: strangers choose the URLs, so nothing in them is trusted.

Every address is checked when its socket is created. Host names, unusual number notations, redirects and changed DNS
answers all end there, so no notation of an address has to be recognised in the URL itself.
"""

import asyncio
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver

import serve_app
from serve_app.errors import ImageUrlError
from serve_app.photos.file_kind import is_web_page, web_page_error
from serve_app.photos.resolver import NameLookups
from serve_app.photos.source import PhotoSource
from serve_app.photos.urls import (
    CLIENT_ERRORS,
    FetchSettings,
    check_url,
    is_refused,
    photo_too_large,
    redirect_target,
)

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
USER_AGENT = f"face-avatar/{serve_app.__version__}"
ACCEPT = "image/jpeg, image/png, image/webp, image/avif;q=0.8, image/heic;q=0.8, */*;q=0.1"
INFLATED = frozenset({"gzip", "x-gzip", "deflate"})
# What servers write there that is no compression; browsers ignore it too.
NO_ENCODINGS = frozenset({"", "identity", "none", "binary", "utf-8", "utf8", "base64", "aws-chunked"})

ResolverOf = Callable[[str], AbstractResolver]
"""The resolver for the URLs of an owner."""


class RefusedAddressError(OSError):
    """Raised instead of connecting; an OSError, so that the other addresses of a host are still tried."""


class PhotoFetcher:
    """Fetches photos by http(s), and decodes uploaded ones. Bound to the event loop of its first fetch."""

    def __init__(self, settings: FetchSettings, resolver_of: ResolverOf | None = None) -> None:
        self._settings = settings
        self._resolver_of = resolver_of or NameLookups(settings.name_servers).of_owner

    async def fetch(self, photo: PhotoSource, owner: str = "") -> bytes:
        """The bytes of a photo, unchecked but for web pages; name look-ups are limited by owner.

        Raises: ImageUrlError; OverloadedError where it was dropped.
        """
        if not photo.is_upload:
            return await self._fetch(photo.url, owner)
        if photo.is_decoded:
            return photo.read(self._settings.max_bytes)
        return await asyncio.to_thread(photo.read, self._settings.max_bytes)

    async def _fetch(self, url: str, owner: str) -> bytes:
        headers = {"Accept": ACCEPT, "Accept-Encoding": "identity"}
        # `from None`: the causes name resolved addresses, which must not reach a log.
        try:
            async with (
                asyncio.timeout(self._settings.timeout_s),
                # A session for each fetch: closing it ends a look-up that aiohttp shields from cancellation.
                guarded_session(self._settings, headers, self._resolver_of(owner)) as session,
            ):
                return await self._follow(session, url)
        except TimeoutError:
            raise ImageUrlError(
                f"the photo did not arrive within {self._settings.timeout_s:g} s", reason="timeout"
            ) from None

    async def _follow(self, session: aiohttp.ClientSession, url: str) -> bytes:
        for redirects in range(self._settings.max_redirects + 1):
            with _image_url_errors(redirects):
                target = check_url(url, self._settings)
                async with session.get(target, allow_redirects=False) as response:
                    location = response.headers.get("Location")
                    if response.status not in REDIRECT_STATUSES or location is None:
                        return await self._read(response)
            with _image_url_errors(redirects + 1):
                url = redirect_target(target, location)
        raise ImageUrlError(f"more than {self._settings.max_redirects} redirects", reason="redirects")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise ImageUrlError(f"the URL answered with HTTP status {response.status}", reason="status")
        body = await self._body(response)
        if is_web_page(body, response.content_type):
            raise web_page_error()
        return body

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        inflater = _inflater(response)
        max_bytes = self._settings.max_bytes
        body = bytearray()
        if inflater is None and (response.content_length or 0) > max_bytes:
            raise photo_too_large(max_bytes)
        async for chunk in response.content.iter_any():
            # One byte over the limit is enough; the rest of a decompression bomb is never inflated.
            body += chunk if inflater is None else inflater.decompress(chunk, max_bytes + 1 - len(body))
            if len(body) > max_bytes:
                raise photo_too_large(max_bytes)
        return bytes(body)


def guarded_session(
    settings: FetchSettings, headers: dict[str, str], resolver: AbstractResolver
) -> aiohttp.ClientSession:
    """A session that connects to public addresses only; for URLs that passed `check_url`."""

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
            limit=0,  # callers limit the concurrency; a queue here would use up the deadline
        ),
        headers={"User-Agent": f"{USER_AGENT} {settings.user_agent}".strip(), **headers},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # callers set one deadline for the whole fetch
        auto_decompress=False,
        trust_env=False,
    )


def _inflater(response: aiohttp.ClientResponse) -> Any:  # zlib does not name the class
    """What inflates the body, None where it is not compressed. Raises: ImageUrlError."""
    named = ",".join(response.headers.getall("Content-Encoding", [])).lower().split(",")
    encodings = [encoding for name in named if (encoding := name.strip()) not in NO_ENCODINGS]
    if not encodings:
        return None
    if len(encodings) > 1 or encodings[0] not in INFLATED:
        raise ImageUrlError("the answer is compressed in a way that was not asked for", reason="encoding")
    return zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: zlib detects gzip or deflate


@contextmanager
def _image_url_errors(redirects: int) -> Iterator[None]:
    """Raises the errors of aiohttp and of the block as ImageUrlError, which says so if it comes after a redirect."""
    try:
        yield
    except ImageUrlError as error:
        known = error
    except aiohttp.InvalidURL:
        known = ImageUrlError("this is not a URL", reason="url")
    except CLIENT_ERRORS as error:
        if isinstance(getattr(error, "os_error", None), RefusedAddressError):
            known = ImageUrlError("the URL leads to an address that is not public", reason="address")
        else:
            known = ImageUrlError("the server of the URL could not be reached or broke off", reason="unreachable")
    else:
        return
    # `from None`: the causes name resolved addresses, which must not reach a log.
    raise (_after_redirects(known, redirects) if redirects else known) from None


def _after_redirects(error: ImageUrlError, redirects: int) -> ImageUrlError:
    data = {name: value for name, value in error.data.items() if name != "message"}
    times = "a redirect" if redirects == 1 else f"{redirects} redirects"
    return ImageUrlError(f"after {times} of the URL: {error}", **data)
