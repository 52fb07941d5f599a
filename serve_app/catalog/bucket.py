"""The operator's own copy of model files, in an object store: each has its SHA-256 as its key there.

So files of several revisions lie beside each other, and whoever reads one knows what it must contain.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

RANGE_BYTES = 8 << 20
RANGES_AT_ONCE = 32  # one connection brings a tenth of what a large machine's network can
RANGES_OF_A_FILE = 8
PART_BYTES = 64 << 20  # of an upload; S3 takes 10,000 parts

# For each range; retries begin it anew.
CLIENT: Any = {"allow_http": True, "connect_timeout": timedelta(seconds=10), "timeout": timedelta(seconds=60)}
RETRIES: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=300)}


class BucketError(Exception):
    """The bucket does not answer, refuses, or lacks a file."""


class ModelBucket:
    """Files by their keys. Thread-safe; blocks."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._readers = ThreadPoolExecutor(RANGES_AT_ONCE, "model-bucket")

    @classmethod
    def open(cls, url: str) -> "ModelBucket":
        """`s3://bucket/prefix`, `gs://bucket/prefix`, a URL of Azure Blob Storage, or `file:///folder`.

        Credentials are those of the environment (AWS_*, GOOGLE_*, AZURE_*) or of the machine's role.

        Raises: ValueError for a URL of another kind.
        """
        try:
            if url.startswith("file:"):
                return cls(from_url(url, mkdir=True))
            return cls(from_url(url, client_options=CLIENT, retry_config=RETRIES))
        except BaseError as error:
            raise ValueError(f"{url} is no URL of a bucket: {str(error).splitlines()[0]}") from error

    def size(self, key: str) -> int | None:
        """Bytes of a file; None where it is not there. Raises: BucketError."""
        try:
            return int(obstore.head(self._store, key)["size"])
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise BucketError(_first_line(error)) from error

    def keys(self, folder: str) -> list[str]:
        """What lies in a folder of the bucket. Raises: BucketError."""
        with _bucket_errors():
            return sorted(file["path"] for page in obstore.list(self._store, folder) for file in page)

    def read(self, key: str, start: int) -> Iterator[bytes]:
        """A file from the byte `start`, in order, while its next ranges are on their way. Raises: BucketError."""
        size = self.size(key)
        if size is None:
            raise BucketError("it is not in the bucket")
        starts = iter(range(start, size, RANGE_BYTES))
        coming: deque[Future[bytes]] = deque()
        try:
            coming.extend(self._readers.submit(self._range, key, at) for at in islice(starts, RANGES_OF_A_FILE))
            while coming:
                data = coming.popleft().result()
                coming.extend(self._readers.submit(self._range, key, at) for at in islice(starts, 1))
                yield data
        finally:
            for request in coming:
                request.cancel()

    def write(self, key: str, path: Path) -> None:
        """Copy a file there; readers see all of it or nothing. Raises: BucketError."""
        with _bucket_errors():
            obstore.put(self._store, key, path, chunk_size=PART_BYTES, max_concurrency=4)

    def close(self) -> None:
        """Read no more; waits for no range."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _range(self, key: str, start: int) -> bytes:
        with _bucket_errors():
            return bytes(obstore.get_range(self._store, key, start=start, length=RANGE_BYTES))


@contextmanager
def _bucket_errors() -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise BucketError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
