"""Where results live, and the signed URLs under which clients fetch them."""

import hashlib
import hmac
import re
import time
from pathlib import Path
from urllib.parse import urlencode

from obstore.store import LocalStore

from deployments.types import OutputFormat
from serve_app.errors import ForbiddenError, NotFoundError

KEY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9]\.(thumb\.webp|png|webp|jpeg)")
FILES_ROUTE = "/files"
PROBE = ".ready"  # no key of a result, so nobody can fetch it


def result_key(task_id: str, index: int, output_format: OutputFormat) -> str:
    return f"{task_id}/{index}.{output_format}"


def thumbnail_key(task_id: str, index: int) -> str:
    return f"{task_id}/{index}.thumb.webp"


def media_type(key: str) -> str:
    return f"image/{key.rpartition('.')[2]}"


class LocalResults:
    """Results in a folder of the data directory, served by this application under signed URLs."""

    def __init__(self, folder: Path, key: bytes, ttl_s: int) -> None:
        self._store = LocalStore(folder, mkdir=True)
        self._key = key
        self._ttl_s = ttl_s

    async def put(self, key: str, data: bytes) -> None:
        await self._store.put_async(key, data)

    async def get(self, key: str) -> bytes:
        """Raises: NotFoundError."""
        try:
            return bytes(await (await self._store.get_async(key)).bytes_async())
        except FileNotFoundError:
            raise NotFoundError("There is no such file, or not any more.") from None

    async def check(self) -> None:
        """Write something small. Raises: OSError, or obstore's BaseError, where that fails."""
        await self._store.put_async(PROBE, b"")

    def url(self, key: str, base_url: str) -> str:
        """An absolute URL that works until the results expire."""
        expires = int(time.time()) + self._ttl_s
        query = urlencode({"expires": expires, "signature": self._sign(key, expires)})
        return f"{base_url.rstrip('/')}{FILES_ROUTE}/{key}?{query}"

    def check_signature(self, key: str, expires: str, signature: str) -> None:
        """Raises: NotFoundError for what cannot be a key, ForbiddenError for a wrong or outdated signature."""
        if not KEY.fullmatch(key):
            raise NotFoundError("There is no such file.")
        genuine = expires.isascii() and expires.isdigit() and len(expires) <= 12
        if not genuine or not hmac.compare_digest(self._sign(key, int(expires)).encode(), signature.encode()):
            raise ForbiddenError("The signature does not fit: take the URL as it was given.")
        if int(expires) < time.time():
            raise ForbiddenError("This URL has expired.")

    def _sign(self, key: str, expires: int) -> str:
        return hmac.new(self._key, f"{key}\n{expires}".encode(), hashlib.sha256).hexdigest()
