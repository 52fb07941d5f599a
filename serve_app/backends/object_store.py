"""Stores results, and signs the URLs under which clients fetch them.

Either a folder of the data directory, whose files this application serves itself; or S3, Google Cloud Storage or Azure,
whose own signed URLs send clients directly to the store.
"""

import asyncio
import errno
import hashlib
import hmac
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from obstore import sign_async
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store
from pydantic import Field, SecretStr, field_validator

from deployments.config import Config
from deployments.types import OutputFormat
from serve_app.errors import ForbiddenError, NotFoundError, StoreError

KEY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9]\.(thumb\.webp|png|webp|jpeg)")
PHOTO_KEY = re.compile(r"photos/[0-9a-f-]{36}((\.[1-9])?\.webp|\.json)")
FILES_ROUTE = "/files"
FOLDER = "results"  # of the data directory
PHOTOS = "photos"  # folder of the photos of queued tasks, and of the requests of batches that are not queued yet
PROBE = ".ready"  # not the key of a result, so never served

OBJECT_STORE = re.compile(
    r"(?:(?P<scheme>s3|gs)://|az://(?P<account>[\w-]+)/)(?P<bucket>[\w.-]+)(?:/(?P<prefix>[^?#]*))?", re.ASCII
)
ABSENT_BUCKET = ("NoSuchBucket", "ContainerNotFound")  # the error codes of S3 and GCS, and of Azure
NO_SPACE = tuple(f"(os error {code})" for code in (errno.ENOSPC, errno.EDQUOT))  # how obstore reports a full disk
LISTED_AT_ONCE = 1000
PART_TTL_S = 600  # longer than any write takes
MAX_SIGNED_TTL_S = 7 * 24 * 3600  # the limit of S3 and GCS

AnyStore = LocalStore | S3Store | GCSStore | AzureStore


class StoreSettings(Config):
    """Which store, its timeout and retries.

    `url` is s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix, or None: a folder of the data
    directory. `options` are those of obstore: endpoint, region, access_key_id, ... Missing ones come from the
    environment (AWS_*, GOOGLE_*, AZURE_*), the better place for secrets: Serve's API shows an application's arguments.
    """

    url: str | None = None
    options: dict[str, SecretStr] = Field(default_factory=dict)
    timeout_s: float = Field(10, ge=0.1, le=60)  # of one operation, including retries
    retries: int = Field(2, ge=0, le=10)

    @field_validator("url")
    @classmethod
    def _of_an_object_store(cls, url: str | None) -> str | None:
        if url is not None:
            _url_parts(url)
        return url

    @property
    def is_shared(self) -> bool:
        """Whether all machines with these settings see the same results."""
        return self.url is not None


def result_key(task_id: str, index: int, output_format: OutputFormat) -> str:
    """The key of an image, such as `<task id>/0.png`; the format is its suffix."""
    return f"{task_id}/{index}.{output_format}"


def thumbnail_key(task_id: str, index: int) -> str:
    """The key of an image's WebP thumbnail, such as `<task id>/0.thumb.webp`."""
    return f"{task_id}/{index}.thumb.webp"


def photo_key(task_id: str, photo: int = 0) -> str:
    """The key of a photo of a queued task; it does not match `KEY`, so it is never served."""
    return f"{PHOTOS}/{task_id}.{photo}.webp" if photo else f"{PHOTOS}/{task_id}.webp"


def photo_keys(task_id: str, photos: int) -> list[str]:
    """Those of all its photos."""
    return [photo_key(task_id, photo) for photo in range(photos)]


def request_key(task_id: str) -> str:
    """The key of a request that becomes a queued task later; never served, and deleted as photos are."""
    return f"{PHOTOS}/{task_id}.json"


def task_of(key: str) -> str:
    """The id of the task that a file belongs to."""
    folder, _, name = key.partition("/")
    return name.partition(".")[0] if folder == PHOTOS else folder


def media_type(key: str) -> str:
    """`image/png`, `image/webp` or `image/jpeg`, by the key's suffix; `application/json`."""
    suffix = key.rpartition(".")[2]
    return "application/json" if suffix == "json" else f"image/{suffix}"


class Results:
    """The files of tasks in one store, local or remote.

    Every operation ends within `timeout_s`. obstore rejects keys that would leave the folder or prefix: a bug of the
    caller, not a StoreError.
    """

    def __init__(self, store: AnyStore, signing_key: bytes, ttl_s: int, timeout_s: float) -> None:
        self.local = isinstance(store, LocalStore)
        self._store = store
        self._key = signing_key
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s

    @classmethod
    def open(cls, settings: StoreSettings, *, data_dir: Path, signing_key: bytes, ttl_s: int) -> "Results":
        """Results whose URLs are valid for `ttl_s` seconds. Does not contact an object store yet.

        URLs signed with temporary credentials, such as those of a cloud machine's role, expire with them if earlier.

        Raises: ValueError where the settings are invalid for the store.
        """
        if settings.url is None:
            store: AnyStore = LocalStore(data_dir / FOLDER, mkdir=True, automatic_cleanup=True)
        elif ttl_s > MAX_SIGNED_TTL_S:
            raise ValueError(f"An object store's URLs live {MAX_SIGNED_TTL_S} s at most, not {ttl_s} s.")
        else:
            store = _object_store(settings.url, settings)
        return cls(store, signing_key, ttl_s, settings.timeout_s)

    async def put(self, key: str, data: bytes) -> None:
        """Atomic: readers see the whole file or none. Raises: StoreError."""
        await self._put(key, data, media_type(key))

    async def get(self, key: str) -> bytes:
        """Raises: NotFoundError, StoreError."""
        async with self._store_errors():
            try:
                return bytes(await (await self._store.get_async(key)).bytes_async())
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise
                raise NotFoundError("There is no such file, or not any more.") from None

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete files; missing ones are ignored. Raises: StoreError."""
        # One by one: stores other than S3 stop a bulk deletion at the first missing key.
        outcomes = await asyncio.gather(*(self._delete(key) for key in keys), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def older(self, age_s: float, folder: str | None = None) -> AsyncIterator[str]:
        """The keys of photos and results older than `age_s` seconds; ignores other files. Raises: StoreError."""
        before = datetime.now(UTC) - timedelta(seconds=age_s)
        pages = self._store.list(folder, chunk_size=LISTED_AT_ONCE)
        while True:
            async with self._store_errors():
                page = await anext(aiter(pages), None)
            if page is None:
                return
            for file in page:
                key = file["path"]
                if file["last_modified"] < before and (KEY.fullmatch(key) or PHOTO_KEY.fullmatch(key)):
                    yield key

    def delete_parts(self) -> None:
        """Delete partial files that killed writers left in a local folder; object stores have none. Blocks."""
        if isinstance(self._store, LocalStore):
            for path in Path(str(self._store.prefix)).rglob("*#*"):  # obstore's names for partial files
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > PART_TTL_S:
                        path.unlink()

    async def urls(self, keys: Sequence[str], base_url: str) -> list[str]:
        """Absolute URLs that are valid until the results expire; `base_url` is that of this application.

        Raises: StoreError.
        """
        if isinstance(self._store, LocalStore):
            return [self._url(key, base_url) for key in keys]
        async with self._store_errors():
            return list(await sign_async(self._store, "GET", keys, timedelta(seconds=self._ttl_s)))

    def check_signature(self, key: str, expires: str, signature: str) -> None:
        """Raises: NotFoundError if the key is not served here, ForbiddenError for a wrong or expired signature."""
        if not self.local or not KEY.fullmatch(key):
            raise NotFoundError("There is no such file.")
        genuine = expires.isascii() and expires.isdigit() and len(expires) <= 12
        if not genuine or not hmac.compare_digest(self._sign(key, int(expires)).encode(), signature.encode()):
            raise ForbiddenError("The signature does not fit: take the URL as it was given.")
        if int(expires) < time.time():
            raise ForbiddenError("This URL has expired.")

    async def check(self) -> None:
        """Check that the store is writable with a small, non-empty file: a full disk accepts empty ones.

        Raises: StoreError.
        """
        await self._put(PROBE, b"ready", "application/octet-stream")

    async def _put(self, key: str, data: bytes, content_type: str) -> None:
        # Local folders reject attributes.
        attributes = None if self.local else {"Content-Type": content_type, "Cache-Control": "private"}
        async with self._store_errors():
            # Not multipart: parts of an aborted upload would stay in the bucket, invisible but billed.
            await self._store.put_async(key, data, attributes=attributes, use_multipart=False)

    async def _delete(self, key: str) -> None:
        async with self._store_errors():
            try:
                await self._store.delete_async(key)
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise

    @asynccontextmanager
    async def _store_errors(self) -> AsyncIterator[None]:
        """Turns failures of the store into StoreError; the cause names the endpoint and is for the log only."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except (BaseError, OSError) as error:
            if any(words in str(error) for words in NO_SPACE):
                raise StoreError("The store of the results is full.") from error
            raise StoreError("The store of the results does not answer, or refuses.") from error

    def _url(self, key: str, base_url: str) -> str:
        expires = int(time.time()) + self._ttl_s
        query = urlencode({"expires": expires, "signature": self._sign(key, expires)})
        return f"{base_url.rstrip('/')}{FILES_ROUTE}/{key}?{query}"

    def _sign(self, key: str, expires: int) -> str:
        return hmac.new(self._key, f"{key}\n{expires}".encode(), hashlib.sha256).hexdigest()


def _url_parts(url: str) -> re.Match[str]:
    """Raises: ValueError."""
    if parts := OBJECT_STORE.fullmatch(url):
        return parts
    raise ValueError("not one of s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix")


def _object_store(url: str, settings: StoreSettings) -> S3Store | GCSStore | AzureStore:
    """Raises: ValueError."""
    parts = _url_parts(url)
    arguments: dict[str, Any] = {
        "prefix": (parts["prefix"] or "").strip("/") or None,
        "config": {name: value.get_secret_value() for name, value in settings.options.items()},
        # Half the time for one try, so that one that hangs leaves time for another. The settings' own options win.
        "client_options": {
            "allow_http": True,  # the endpoint decides; the default ones are HTTPS
            "connect_timeout": timedelta(seconds=settings.timeout_s / 4),
            "timeout": timedelta(seconds=settings.timeout_s / 2),
        },
        "retry_config": {
            "max_retries": settings.retries,
            "retry_timeout": timedelta(seconds=settings.timeout_s),
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
        },
    }
    try:
        if parts["account"]:
            arguments["config"]["account_name"] = parts["account"]
            return AzureStore(parts["bucket"], **arguments)
        return (S3Store if parts["scheme"] == "s3" else GCSStore)(parts["bucket"], **arguments)
    except BaseError as error:
        raise ValueError(f"The settings of the store {url} do not fit: {str(error).splitlines()[0]}") from error


def _lacks_bucket(error: FileNotFoundError) -> bool:
    """obstore raises the same error for a missing file and a missing bucket; only the store's text differs."""
    return any(name in str(error) for name in ABSENT_BUCKET)
