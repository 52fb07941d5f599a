"""URLs of clients: which may be fetched, the contents of data URLs, and how answers show either."""

import binascii
import re
import zlib
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Annotated, NamedTuple
from urllib.parse import quote_from_bytes, unquote, urljoin

import aiohttp
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from yarl import URL

from serve_app.errors import ImageUrlError

MAX_PHOTO_BYTES = 30 * 1024 * 1024  # of a file; the largest body follows from it
MAX_URL_CHARS = 8192  # of an http(s) URL; a data URL is bounded by `max_bytes`
BASE64_CHUNK_CHARS = 256 * 1024  # a multiple of 4
# An explicit list, because `ip_address.is_global` counts several of these as global.
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
        # Only 2000::/3 is global unicast. The rest contains ::, ::1, v4-compatible ::/96, NAT64 64:ff9b::/96 and
        # 64:ff9b:1::/48, v4-mapped ::ffff:0:0/96, discard 100::/64, segment routing 5f00::/16, unique local fc00::/7,
        # link-local fe80::/10, site-local fec0::/10 and multicast ff00::/8.
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",  # IETF protocol assignments: Teredo, ORCHID, benchmarking
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 can embed any v4 address
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # the former 6bone
        "3fff::/20",  # documentation
    )
)
# The middle of an ISATAP address (RFC 5214), which embeds any v4 address under any prefix: 0000:5efe or 0200:5efe.
ISATAP, ISATAP_MASK = 0x0000_5EFE, 0xFDFF_FFFF
# The exceptions of aiohttp and yarl for URLs and answers that they cannot handle.
CLIENT_ERRORS = (aiohttp.ClientError, OSError, ValueError, AssertionError, zlib.error)
_UNSAFE_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
_AUTHORITY_AND_REST = re.compile(r"[^/?#]*//([^/?#]*)([^#]*)")
_ENCODED_CHARACTER = re.compile(r"[^\x21-\x7e]")
_RAW_BYTE = re.compile(r"[\udc80-\udcff]")  # as `surrogateescape` decodes it
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_USER_INFO = re.compile(r"[^/?#]*//[^/?#]*@")  # also an empty one, which yarl drops
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_MEDIA_TYPE = re.compile(r"[a-z]+/(?:\*|[a-z0-9][a-z0-9.+-]{0,63})")
_ANY_TYPE = ("", "application/octet-stream", "image/*")  # of clients that do not know the type of their file
_BASE64_START = re.compile(r"[A-Za-z0-9+/_\s-]{64,256}")
_URL_SAFE, _BASE64 = b"-_", b"+/"  # RFC 4648, section 5


def _name_server(text: str) -> str:
    """An address, with a port or without: `10.0.0.2`, `10.0.0.2:53`, `2001:db8::2`, `[2001:db8::2]:53`."""
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(\d{1,5}))?|([0-9.]+):(\d{1,5})", text)
    address, port = (match[1] or match[3], match[2] or match[4] or "53") if match else (text, "53")
    ip_address(address)
    if not 0 < int(port) < 65536:
        raise ValueError(f"{port} is not a port")
    return text


class FetchSettings(BaseModel):
    """Limits of one fetch, including its redirects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow_private: bool = False  # any address and any port: for development and closed networks only
    ports: tuple[int, ...] = (80, 443)
    max_redirects: int = 10
    timeout_s: PositiveFloat = 10.0
    max_bytes: PositiveInt = MAX_PHOTO_BYTES  # after decompression
    # After `face-avatar/VERSION` in the User-Agent, of webhooks too. Large hosts ask for an address to write to, such
    # as "(https://example.org/bot; bot@example.org)", and refuse or slow down those that give none.
    user_agent: str = Field("", max_length=200, pattern=r"^[\x20-\x7e]*$")
    name_servers: tuple[Annotated[str, AfterValidator(_name_server)], ...] = ()  # `address[:port]`; (): the system's


def check_url(text: str, settings: FetchSettings) -> URL:
    """Parses an http(s) URL that may be fetched; the address is checked later, at the socket.

    Its path and query go out as they are, because a signature may cover each byte; only spaces and characters beyond
    ASCII are percent-encoded. White space around it is dropped. Raises: ImageUrlError.
    """
    text = text.strip()
    if len(text) > MAX_URL_CHARS:
        raise ImageUrlError(f"a URL has at most {MAX_URL_CHARS} characters", reason="url")
    if _UNSAFE_CHARACTER.search(text):
        raise ImageUrlError("a URL holds no line breaks, control characters or backslashes", reason="url")
    if _USER_INFO.match(text):
        raise ImageUrlError("a URL with a user name or password is not fetched", reason="userinfo")
    try:
        url = URL(text)
        host, port = url.raw_host, url.port
    except CLIENT_ERRORS:
        raise ImageUrlError("this is not a URL", reason="url") from None
    if url.scheme not in ("http", "https"):
        raise ImageUrlError("the URL is none of http, https or data", reason="scheme")
    parts = _AUTHORITY_AND_REST.match(text)
    if parts is None or " " in parts[1] or not host or not _HOST.fullmatch(host):
        raise ImageUrlError("the URL has no valid host", reason="url")
    if port not in settings.ports and not settings.allow_private:
        allowed = " or ".join(map(str, settings.ports))
        raise ImageUrlError(f"the port of the URL is not {allowed}", reason="port", ports=list(settings.ports))
    rest = _ENCODED_CHARACTER.sub(lambda found: quote_from_bytes(found[0].encode()), parts[2])
    # The host as it was parsed, in ASCII. Without `encoded`, escapes such as %27 and %2F would be written anew.
    return URL(f"{url.scheme}://{url.raw_authority}{rest}", encoded=True)


def redirect_target(base: URL, location: str) -> str:
    """The URL that a `Location` names, as text, for `check_url`; bytes that are not UTF-8 are percent-encoded.

    Raises: ImageUrlError.
    """
    location = _RAW_BYTE.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", location.strip())
    if _SCHEME.match(location):
        return location
    if location.startswith("//"):
        return f"{base.scheme}:{location}"
    if location.startswith("/"):
        return f"{base.origin()}{location}"
    try:
        return urljoin(str(base), location)
    except ValueError:
        raise ImageUrlError("this is not a URL", reason="url") from None


def is_refused(address: str) -> bool:
    """Whether a numeric address is not on the public internet, or invalid."""
    try:
        ip = ip_address(address.partition("%")[0])  # without the IPv6 zone
    except ValueError:
        return True
    if ip.version == 6 and (int(ip) >> 32) & ISATAP_MASK == ISATAP:
        return True
    return any(ip in network for network in REFUSED_NETWORKS)


def decode_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes of a `data:image/...;base64,` URL; in steps of a millisecond, for threads. Raises: ImageUrlError."""
    header = _DataHeader.of(url)
    if header.media_type not in _ANY_TYPE and not (header.media_type or "").startswith("image/"):
        raise ImageUrlError("the data URL is not an image: data:image/...;base64, is expected", reason="not_an_image")
    if not header.is_base64:
        raise ImageUrlError("the data URL is not base64: data:image/...;base64, is expected", reason="url")
    payload, start = _unescaped(url, header.end)
    if len(payload) - start > 4 * (max_bytes // 3 + 1):
        raise photo_too_large(max_bytes)
    try:
        data = b"".join(_decode_base64(payload, start))
    except ValueError:
        raise ImageUrlError("the data URL holds invalid base64", reason="url") from None
    check_size(len(data), max_bytes)
    return data


def plain_data_url(url: str) -> str:
    """A data URL with its base64 as RFC 4648, section 4 has it: no white space, `+` and `/`, and padding.

    Clients break lines after 76 characters, leave out padding, or take the alphabet for URLs.
    """
    start = _DataHeader.of(url).end
    if not url[start:].isascii():
        return url
    text = url[start:].encode().translate(bytes.maketrans(_URL_SAFE, _BASE64), b" \t\r\n\f").rstrip(b"=")
    return url[:start] + (text + b"=" * (-len(text) % 4)).decode()


def named_type(url: str) -> str:
    """The media type that a data URL names; empty for one that leaves open what it is, and without one."""
    media_type = _DataHeader.of(url).media_type or ""
    return "" if media_type in _ANY_TYPE else media_type


def is_base64(text: str) -> bool:
    """Whether a text is base64 and no URL, by its first characters: a host has a dot or is short."""
    return _BASE64_START.match(text) is not None and not re.search(r"[.:]", text[:256])


def _decode_base64(payload: str, start: int) -> Iterator[bytes]:
    """The base64 from `start` on, in chunks, between which other threads may run. Raises: ValueError."""
    for at in range(start, len(payload), BASE64_CHUNK_CHARS):
        decoded = binascii.a2b_base64(payload[at : at + BASE64_CHUNK_CHARS], strict_mode=True)
        if at + BASE64_CHUNK_CHARS < len(payload) and len(decoded) < BASE64_CHUNK_CHARS // 4 * 3:
            raise ValueError("padding before the end")
        yield decoded


def describe_url(url: str) -> str:
    """A `file_url` as the envelope shows it: without query, fragment, user info or picture data. Never raises."""
    url = url.strip()
    if is_data_url(url):
        header = _DataHeader.of(url)
        payload, start = _unescaped(url, header.end)
        size = len(payload) - start
        if header.is_base64:
            size = size * 3 // 4 - payload[max(start, len(payload) - 2) :].count("=")
        return f"data:{header.media_type or ''} ({max(size, 0)} bytes)"
    match = re.match(r"(https?)://([^/?#]*)([^?#]*)", url[:MAX_URL_CHARS], re.IGNORECASE)
    if match is None:
        return "(not an http, https or data URL)"
    scheme, authority, path = match.groups()
    described = f"{scheme}://{authority.rpartition('@')[2]}{path}"
    return described.encode("utf-8", "replace").decode()  # JSON can contain lone surrogates, a UTF-8 answer cannot


def is_data_url(url: str) -> bool:
    """Whether a text begins with `data:`, in any case; it may still be damaged."""
    return url[:5].lower() == "data:"


class _DataHeader(NamedTuple):
    """What stands before the data of a data URL."""

    media_type: str | None  # empty if there is none, None if it is not valid
    is_base64: bool
    end: int  # where the data begin

    @classmethod
    def of(cls, url: str) -> "_DataHeader":
        """The header of a data URL; of a broken one what can be read of it. Raises nothing."""
        comma = url.find(",", 5)
        end = len(url) if comma < 0 else comma + 1
        media_type, *parameters = unquote(url[5 : end - (comma >= 0)][:1024]).lower().split(";")
        is_base64 = comma >= 0 and parameters[-1:] == ["base64"]
        is_valid = not media_type or _MEDIA_TYPE.fullmatch(media_type)
        return cls(media_type if is_valid else None, is_base64, end)


def _unescaped(url: str, start: int) -> tuple[str, int]:
    """A text without percent-escapes that has the data of a data URL, and where they begin in it: mostly the URL."""
    if url.find("%", start) < 0:
        return url, start
    # RFC 2397 allows percent-escapes. Only three base64 characters are ever escaped, and replacing just those is fast,
    # while a general decoder takes seconds and hundreds of megabytes for a payload of nothing but escapes.
    payload = url[start:]
    for escaped, character in (("%2B", "+"), ("%2F", "/"), ("%3D", "=")):
        payload = payload.replace(escaped, character).replace(escaped.lower(), character)
    return payload, 0


def check_size(size: int, max_bytes: int) -> None:
    """Raises: ImageUrlError."""
    if size > max_bytes:
        raise photo_too_large(max_bytes)


def photo_too_large(max_bytes: int) -> ImageUrlError:
    """The error for a photo of more than `max_bytes`; its reason is `too_large`."""
    return ImageUrlError(f"a photo has at most {max_bytes} bytes", reason="too_large", max_bytes=max_bytes)
