"""Tells the web page around a photo from the photo: people copy the address of the page that shows it."""

import re

from serve_app.errors import ImageUrlError

SNIFFED_BYTES = 1445  # as browsers read ahead (mimesniff.spec.whatwg.org)
PAGE_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_PAGE_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--|(?:<\?xml[^>]*>\s*)?"
    rb"<(?:!doctype\s+html|html|head|title|script|style|body|meta|link|iframe|h1|div|font|table|a|b|br|p)[\s>/])",
    re.IGNORECASE,
)
# No text holds these, and every photo format has some in its first bytes.
_BINARY_BYTE = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


def is_web_page(body: bytes, content_type: str) -> bool:
    """Whether it begins like a page, or is text that its server calls a page; a photo that is called one is none."""
    start = body[:SNIFFED_BYTES]
    if _PAGE_START.match(start):
        return True
    return content_type in PAGE_TYPES and not _BINARY_BYTE.search(start)


def web_page_error() -> ImageUrlError:
    """The error for a URL that leads to a web page; its reason is `not_an_image`."""
    return ImageUrlError(
        "the URL leads to a web page, not to a picture: link to the file itself", reason="not_an_image"
    )
