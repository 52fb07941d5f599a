"""The URLs that a client accepts and shows."""

from ipaddress import ip_address

import httpx


def web_address(text: str) -> httpx.URL | None:
    """The parsed URL; None unless it is an http(s) URL that can be connected to."""
    try:
        url = httpx.URL(text)
        url.host.encode("idna")  # as the resolver does: fails on a label that is too long
    except (httpx.InvalidURL, ValueError):
        return None
    # httpx would send user info in the URL instead of the token.
    usable = url.scheme in ("http", "https") and url.host and (url.port or 0) <= 65535 and not url.userinfo
    return url if usable else None


def is_url(text: str) -> bool:
    """Whether an argument is meant as an http(s) URL, by its scheme alone, and not as a path."""
    return text.lower().startswith(("http://", "https://"))


def origin(url: httpx.URL) -> str:
    """A URL for messages: without path, signature and password."""
    return f"{url.scheme}://{url.netloc.decode()}"


def is_this_machine(host: str) -> bool:
    """Whether a host is localhost, a name below it, or a loopback or unspecified address; looks no name up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
