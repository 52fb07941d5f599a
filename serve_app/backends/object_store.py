"""Where results live, and the signed URLs under which clients fetch them.

A folder of the data directory, whose files this application serves itself; or S3, Google Cloud Storage or Azure, whose
own signed URLs send clients straight to the store.
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
PHOTO_KEY = re.compile(r"photos/[0-9a-f-]{36}\.webp")
FILES_ROUTE = "/files"
FOLDER = "results"  # of the data directory
PHOTOS = "photos"  # the folder of those that wait
PROBE = ".ready"  # no key of a result, so nobody can fetch it

OBJECT_STORE = re.compile(
    r"(?:(?P<scheme>s3|gs)://|az://(?P<account>[\w-]+)/)(?P<bucket>[\w.-]+)(?:/(?P<prefix>[^?#]*))?", re.ASCII
)
ABSENT_BUCKET = ("NoSuchBucket", "ContainerNotFound")  # what S3 and GCS, and Azure, call it
NO_SPACE = tuple(f"(os error {code})" for code in (errno.ENOSPC, errno.EDQUOT))  # as obstore tells of a full disk
LISTED_AT_ONCE = 1000
PART_TTL_S = 600  # no file takes so long to write
MAX_SIGNED_TTL_S = 7 * 24 * 3600  # S3 and GCS accept no older signature

AnyStore = LocalStore | S3Store | GCSStore | AzureStore


class StoreSettings(Config):
    """Which store, and how patient we are with it.

    `url` is s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix, or None: a folder of the data
    directory. `options` are obstore's own: endpoint, region, access_key_id, ... What is left out comes from the
    environment (AWS_*, GOOGLE_*, AZURE_*), the better place for secrets: Serve's API shows an application's arguments.
    """

    url: str | None = None
    options: dict[str, SecretStr] = Field(default_factory=dict)
    timeout_s: float = Field(10, ge=0.1, le=60)  # of one operation, with all its tries
    retries: int = Field(2, ge=0, le=10)

    @field_validator("url")
    @classmethod
    def _of_an_object_store(cls, url: str | None) -> str | None:
        if url is not None:
            _url_parts(url)
        return url

    @property
    def is_shared(self) -> bool:
        """Whether every machine that has these settings sees the same results."""
        return self.url is not None


def result_key(task_id: str, index: int, output_format: OutputFormat) -> str:
    return f"{task_id}/{index}.{output_format}"


def thumbnail_key(task_id: str, index: int) -> str:
    return f"{task_id}/{index}.thumb.webp"


def photo_key(task_id: str) -> str:
    """Where the photo of a queued task waits for its worker; never a `KEY`, so never served."""
    return f"{PHOTOS}/{task_id}.webp"


def task_of(key: str) -> str:
    """The id of the task that a file belongs to."""
    folder, _, name = key.partition("/")
    return name.partition(".")[0] if folder == PHOTOS else folder


def media_type(key: str) -> str:
    return f"image/{key.rpartition('.')[2]}"


class Results:
    """The files of tasks in one store, whichever it is.

    Every operation ends within `timeout_s`. A key that would leave the folder or the prefix is refused by obstore, and
    is a bug of the caller, not a StoreError.
    """

    def __init__(self, store: AnyStore, signing_key: bytes, ttl_s: int, timeout_s: float) -> None:
        self.local = isinstance(store, LocalStore)
        self._store = store
        self._key = signing_key
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s

    @classmethod
    def open(cls, settings: StoreSettings, *, data_dir: Path, signing_key: bytes, ttl_s: int) -> "Results":
        """Results whose URLs work for `ttl_s` seconds. An object store is not asked for anything yet.

        URLs signed with temporary credentials, as those of a cloud machine's role, end with them if that is earlier.

        Raises: ValueError where the settings do not fit the store.
        """
        if settings.url is None:
            store: AnyStore = LocalStore(data_dir / FOLDER, mkdir=True, automatic_cleanup=True)
        elif ttl_s > MAX_SIGNED_TTL_S:
            raise ValueError(f"An object store's URLs live {MAX_SIGNED_TTL_S} s at most, not {ttl_s} s.")
        else:
            store = _object_store(settings.url, settings)
        return cls(store, signing_key, ttl_s, settings.timeout_s)

    async def put(self, key: str, data: bytes) -> None:
        """Readers see all of it or nothing. Raises: StoreError."""
        await self._put(key, data, media_type(key))

    async def get(self, key: str) -> bytes:
        """Raises: NotFoundError, StoreError."""
        async with self._answering():
            try:
                return bytes(await (await self._store.get_async(key)).bytes_async())
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise
                raise NotFoundError("There is no such file, or not any more.") from None

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete the files of a task; those that are missing are fine. Raises: StoreError."""
        # One by one: stores other than S3 end a list of deletions at the first key that is missing.
        outcomes = await asyncio.gather(*(self._delete(key) for key in keys), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def older(self, age_s: float, folder: str | None = None) -> AsyncIterator[str]:
        """The keys of photos and results that were written longer ago; other files are not ours. Raises: StoreError."""
        before = datetime.now(UTC) - timedelta(seconds=age_s)
        pages = self._store.list(folder, chunk_size=LISTED_AT_ONCE)
        while True:
            async with self._answering():
                page = await anext(aiter(pages), None)
            if page is None:
                return
            for file in page:
                key = file["path"]
                if file["last_modified"] < before and (KEY.fullmatch(key) or PHOTO_KEY.fullmatch(key)):
                    yield key

    def delete_parts(self) -> None:
        """What writers that died left of a file, in a folder of ours; object stores keep no such thing. Blocks."""
        if isinstance(self._store, LocalStore):
            for path in Path(str(self._store.prefix)).rglob("*#*"):  # as obstore calls them
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > PART_TTL_S:
                        path.unlink()

    async def urls(self, keys: Sequence[str], base_url: str) -> list[str]:
        """Absolute URLs that work until the results expire; `base_url` is this application's. Raises: StoreError."""
        if isinstance(self._store, LocalStore):
            return [self._url(key, base_url) for key in keys]
        async with self._answering():
            return list(await sign_async(self._store, "GET", keys, timedelta(seconds=self._ttl_s)))

    def check_signature(self, key: str, expires: str, signature: str) -> None:
        """Raises: NotFoundError for what is not served here, ForbiddenError for a wrong or outdated signature."""
        if not self.local or not KEY.fullmatch(key):
            raise NotFoundError("There is no such file.")
        genuine = expires.isascii() and expires.isdigit() and len(expires) <= 12
        if not genuine or not hmac.compare_digest(self._sign(key, int(expires)).encode(), signature.encode()):
            raise ForbiddenError("The signature does not fit: take the URL as it was given.")
        if int(expires) < time.time():
            raise ForbiddenError("This URL has expired.")

    async def check(self) -> None:
        """Write something small, but not nothing: a full disk takes that. Raises: StoreError."""
        await self._put(PROBE, b"ready", "application/octet-stream")

    async def _put(self, key: str, data: bytes, content_type: str) -> None:
        # A folder keeps no attributes, and refuses them.
        attributes = None if self.local else {"Content-Type": content_type, "Cache-Control": "private"}
        async with self._answering():
            # In one request: parts of an upload that was given up would stay in the bucket unseen, and be paid for.
            await self._store.put_async(key, data, attributes=attributes, use_multipart=False)

    async def _delete(self, key: str) -> None:
        async with self._answering():
            try:
                await self._store.delete_async(key)
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Every failure of the store becomes a StoreError; the cause names the endpoint and is for the log alone."""
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
        "client_options": _client_options(settings.timeout_s),
        "retry_config": _retry_config(settings),
    }
    try:
        if parts["account"]:
            arguments["config"]["account_name"] = parts["account"]
            return AzureStore(parts["bucket"], **arguments)
        return (S3Store if parts["scheme"] == "s3" else GCSStore)(parts["bucket"], **arguments)
    except BaseError as error:
        raise ValueError(f"The settings of the store {url} do not fit: {str(error).splitlines()[0]}") from error


def _client_options(timeout_s: float) -> dict[str, Any]:
    """A try that hangs leaves time for another. Options of the same names in the settings come before these."""
    return {
        "allow_http": True,  # the endpoint says, wherever it was set; those built in are HTTPS
        "connect_timeout": timedelta(seconds=timeout_s / 4),
        "timeout": timedelta(seconds=timeout_s / 2),
    }


def _retry_config(settings: StoreSettings) -> dict[str, Any]:
    return {
        "max_retries": settings.retries,
        "retry_timeout": timedelta(seconds=settings.timeout_s),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
    }


def _lacks_bucket(error: FileNotFoundError) -> bool:
    """obstore says the same of a missing file and of a missing bucket, but for the store's own words."""
    return any(name in str(error) for name in ABSENT_BUCKET)
