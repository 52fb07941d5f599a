"""Downloads model files to the folder that replicas read: fetched, verified by SHA-256, then renamed into place.

Replicas download nothing. A file without a published digest is accepted only on the operator's request (`pin`); its
digest is then written to a lock file in the models folder and checked by every later prefetch and start.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx

from deployments.common.checksums import file_sha256
from serve_app.catalog.bucket import BucketError, ModelBucket
from serve_app.catalog.model_files import HUB, ModelFile
from serve_app.catalog.pins import HOW_TO_PIN, Pin, Pins

PART = ".part"  # suffix of a file that is being fetched
CHUNK_BYTES = 1 << 20
ATTEMPTS = 5  # consecutive ones without progress
RETRY_WAIT_S = 2.0
TIMEOUT_S = 60.0  # without a byte
FILES_AT_ONCE = 4  # from the bucket
RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}

log = logging.getLogger(__name__)

Report = Callable[[ModelFile, int], None]
"""Receives how many bytes of a file are there, on any thread; for a file in an archive, first those of the archive."""


class PrefetchError(Exception):
    """A file could not be fetched or is not the expected one."""


class BrokenOffError(Exception):
    """A failure that another attempt may fix."""


def missing(files: Iterable[ModelFile], models_dir: Path) -> list[ModelFile]:
    """The files that are missing or have the wrong size. Fast: reads no contents."""
    return [file for file in files if not _is_there(file, models_dir / file.path)]


def prefetch(
    files: Iterable[ModelFile],
    models_dir: Path,
    *,
    mirror: str = HUB,
    hub_token: str | None = None,
    bucket: ModelBucket | None = None,
    pin: bool = False,
    report: Report = lambda _file, _size: None,
    retry_wait_s: float = RETRY_WAIT_S,
) -> list[ModelFile]:
    """Fetch and return the files that are missing or wrong.

    From `bucket`, several at once; what it lacks from the catalogue's sources, where `mirror` replaces Hugging Face.
    That alone is shown `hub_token`, with which it gives out gated repositories.

    Raises: PrefetchError. A partial download stays as `*.part`, and the next prefetch resumes it.
    """
    if not mirror.startswith(("https://", "http://")):
        raise PrefetchError(f"a mirror is a URL, not {mirror!r}")
    models_dir.mkdir(parents=True, exist_ok=True)
    # httpx takes proxies and certificates from the environment.
    with _locked(models_dir), httpx.Client(follow_redirects=True, timeout=TIMEOUT_S) as client:
        pins = Pins(models_dir)
        wanted = _missing_or_wrong(files, models_dir, pins)
        if not pin and (unknown := [file.path for file in wanted if pins.expected(file) is None]):
            raise PrefetchError(
                f"no SHA-256 is published or pinned of {', '.join(unknown)}; {HOW_TO_PIN} takes them as they come and"
                " keeps theirs, which every later prefetch and start checks"
            )
        _require_room(wanted, models_dir)
        fetcher = Fetcher(client, models_dir, pins, mirror.rstrip("/"), hub_token, report, retry_wait_s)
        lacking = wanted if bucket is None else fetcher.fetch_from(bucket, wanted)
        for file in lacking:
            if file.member is None:
                fetcher.fetch(file)
        for archive in dict.fromkeys(file.url for file in lacking if file.member is not None):
            fetcher.fetch_members([file for file in lacking if file.url == archive])
    return wanted


class Part:
    """A partial file and the SHA-256 of its contents so far. Continues an existing partial file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._file = path.open("a+b")
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            self._count(chunk)

    @property
    def sha256(self) -> str:
        """64 hex digits, of the bytes so far."""
        return self._digest.hexdigest()

    def append(self, chunk: bytes) -> None:
        """Write a chunk to the end of the file; only `save` makes sure that it is on the disk."""
        self._file.write(chunk)
        self._count(chunk)

    def _count(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Discard the contents: the next chunk is the first one."""
        self._file.truncate(0)
        self._digest, self.size = hashlib.sha256(), 0

    def save(self) -> None:
        """Flush to disk, so that after a crash a file is complete or still named as a part."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, and delete it if nothing was written."""
        self._file.close()
        if self.size == 0:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Fetcher:
    """Fetches files to `models_dir`; blocks.

    `mirror` replaces Hugging Face in URLs. Retries wait `retry_wait_s`, and longer while there is no progress.
    """

    client: httpx.Client
    models_dir: Path
    pins: Pins
    mirror: str
    hub_token: str | None
    report: Report
    retry_wait_s: float

    def fetch_from(self, bucket: ModelBucket, files: Sequence[ModelFile]) -> list[ModelFile]:
        """Fetch files from a bucket, several at once; returns those that it has not, or not as they should be."""
        with ThreadPoolExecutor(FILES_AT_ONCE, "prefetch") as pool:
            try:
                fetched = pool.map(lambda file: self._is_in(bucket, file), files)
                return [file for file, is_there in zip(files, fetched, strict=True) if not is_there]
            except BaseException:  # ctrl-C, too: the files that are being read would be waited for
                bucket.close()
                raise

    def _is_in(self, bucket: ModelBucket, file: ModelFile) -> bool:
        """Whether a file could be fetched from a bucket; if not, its source resumes what came of it."""
        expected = self.pins.expected(file)
        if expected is None:
            return False
        try:
            with closing(Part(_part_of(self.models_dir / file.path))) as part:
                for chunk in bucket.read(expected, part.size):
                    part.append(chunk)
                    self.report(file, part.size)
                self._accept(part, file)
        except (BucketError, PrefetchError) as error:
            log.warning("%s is not taken from the bucket: %s", file.path, error)
            return False
        return True

    def fetch(self, file: ModelFile) -> None:
        """Fetch a file that is in no archive, resuming its part; a wrong file is deleted. Raises: PrefetchError."""
        with closing(Part(_part_of(self.models_dir / file.path))) as part:
            if part.sha256 != self.pins.expected(file):
                self._fill(part, file, file.size)
            self._accept(part, file)

    def fetch_members(self, files: Sequence[ModelFile]) -> None:
        """Files of one archive. Only contents are taken from it: the paths come from the catalogue."""
        path = (self.models_dir / files[0].path).with_name(PurePosixPath(files[0].url).name)
        with closing(Part(_part_of(path))) as archive:
            self._fill(archive, files[0], None)
            archive.save()
            try:
                with zipfile.ZipFile(archive.path) as opened:
                    for file in files:
                        self._extract(opened, file)
            # Not a zip, member missing, encrypted, unsupported compression, or damaged.
            except (zipfile.BadZipFile, KeyError, RuntimeError, zlib.error) as error:
                raise PrefetchError(f"{files[0].url}: {error}") from error
            finally:
                archive.path.unlink()

    def _extract(self, archive: zipfile.ZipFile, file: ModelFile) -> None:
        part_path = _part_of(self.models_dir / file.path)
        with closing(Part(part_path)) as part, archive.open(file.member or "") as member:
            part.restart()
            while (chunk := member.read(CHUNK_BYTES)) and not _is_too_long(part, file.size):
                part.append(chunk)
                self.report(file, part.size)
            self._accept(part, file)

    def _fill(self, part: Part, file: ModelFile, size: int | None) -> None:
        """Read to the end, reconnecting as often as needed. Raises: PrefetchError."""
        furthest, idle = part.size, 0
        while True:
            try:
                return self._read(part, file, size)
            except (httpx.TransportError, BrokenOffError) as error:
                idle = 0 if part.size > furthest else idle + 1
                if idle == ATTEMPTS:
                    raise PrefetchError(f"{file.url}: {error}") from error
                furthest = max(furthest, part.size)
                time.sleep(self.retry_wait_s * (idle + 1))
            except httpx.RequestError as error:
                raise PrefetchError(f"{file.url}: {error}") from error

    def _read(self, part: Part, file: ModelFile, size: int | None) -> None:
        is_of_hub = file.url.startswith(f"{HUB}/")
        url = self.mirror + file.url.removeprefix(HUB) if is_of_hub else file.url
        # A content encoding would change the bytes, and the offset to resume from.
        headers = {"Accept-Encoding": "identity"}
        if is_of_hub and self.hub_token is not None:
            headers["Authorization"] = f"Bearer {self.hub_token}"  # httpx takes it off where a redirect leaves the host
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
        with self.client.stream("GET", url, headers=headers) as response:
            if is_of_hub and response.status_code in (401, 403):
                raise PrefetchError(
                    f"{url}: HTTP {response.status_code}: a gated repository, whose terms have to be accepted on"
                    f" {file.url.partition('/resolve/')[0]} by the owner of the token in HF_TOKEN"
                )
            _require_rest(response, part)
            for chunk in response.iter_bytes():
                part.append(chunk)
                self.report(file, part.size)
                if _is_too_long(part, size):
                    return
        if size is not None and part.size < size:
            raise BrokenOffError(f"it ended after {part.size} of {size} bytes")

    def _accept(self, part: Part, file: ModelFile) -> None:
        try:
            self._verify(part, file)
        except PrefetchError:
            part.path.unlink()
            raise
        if self.pins.expected(file) is None:
            self.pins.keep(file, Pin(sha256=part.sha256, size=part.size))
        part.path.replace(self.models_dir / file.path)

    def _verify(self, part: Part, file: ModelFile) -> None:
        expected = self.pins.expected(file)
        if expected not in (None, part.sha256):
            raise PrefetchError(f"{file.source}: expected SHA-256 {expected}, got {part.sha256}")
        if file.size not in (None, part.size):
            raise PrefetchError(f"{file.source}: expected {file.size} bytes, got {part.size}")
        part.save()
        _require_safe(part, file)


def _require_rest(response: httpx.Response, part: Part) -> None:
    """Accepts the rest of `part`, or the whole file, for which it restarts the part.

    Raises: BrokenOffError, PrefetchError.
    """
    status = response.status_code
    if status in RETRIED_STATUSES:
        raise BrokenOffError(f"HTTP {status}")
    if status not in (200, 206, 416):
        raise PrefetchError(f"{response.url}: HTTP {status}")
    if status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {part.size}-"):
        return
    part.restart()
    if status != 200:
        raise BrokenOffError(f"HTTP {status}, but not with the bytes that were asked for")


def _require_safe(part: Part, file: ModelFile) -> None:
    """Raises: PrefetchError for an ONNX file that is none, or refers to external files."""
    if not file.path.endswith(".onnx"):
        return
    # Imported here because onnxruntime is slow to import.
    from deployments.common.onnx_session import require_self_contained

    try:
        require_self_contained(part.path)
    except ValueError as error:
        raise PrefetchError(f"{file.source}: {error}") from error


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _is_too_long(part: Part, size: int | None) -> bool:
    return size is not None and part.size > size


def _is_there(file: ModelFile, path: Path) -> bool:
    return path.is_file() and file.size in (None, path.stat().st_size)


def _missing_or_wrong(files: Iterable[ModelFile], models_dir: Path, pins: Pins) -> list[ModelFile]:
    """The files that are missing or wrong; wrong ones are deleted, so that no replica loads them."""
    wanted = []
    for file in dict.fromkeys(files):
        path, expected = models_dir / file.path, pins.expected(file)
        if expected is not None and _is_there(file, path) and file_sha256(path) == expected:
            continue
        if expected is not None:
            path.unlink(missing_ok=True)
        wanted.append(file)
    return wanted


def _require_room(files: Sequence[ModelFile], models_dir: Path) -> None:
    free = shutil.disk_usage(models_dir).free
    parts = [_part_of(models_dir / file.path) for file in files]
    downloaded = sum(part.stat().st_size for part in parts if part.exists())
    if (needed := sum(file.size or 0 for file in files) - downloaded) > free:
        raise PrefetchError(f"{models_dir} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are to come")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two prefetches at once would write to the same partial files. Raises: PrefetchError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrefetchError(f"another prefetch is at work in {folder}") from None
        yield
    finally:
        os.close(descriptor)
