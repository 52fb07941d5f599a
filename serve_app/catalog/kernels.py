"""Compiled kernels in the operator's bucket: an archive for each folder of `generator.compile_cache`, under its name.

Kernels are code, and no digest says what they should be: whoever can write to the bucket can run code on the nodes.
"""

import logging
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from serve_app.catalog.bucket import BucketError, ModelBucket

FOLDER = "compiled"  # of the bucket, and of the models folder
SUFFIX = ".tar.gz"

log = logging.getLogger(__name__)


def upload_kernels(cache: Path, bucket: ModelBucket) -> list[str]:
    """Copy every folder of a cache to the bucket, in the place of older copies. Raises: BucketError."""
    folders = sorted(path for path in cache.iterdir() if path.is_dir())
    with tempfile.TemporaryDirectory() as temporary:
        for folder in folders:
            packed = Path(temporary, folder.name + SUFFIX)
            with tarfile.open(packed, "w:gz") as archive:
                archive.add(folder, arcname=".")
            bucket.write(f"{FOLDER}/{packed.name}", packed)
    return [folder.name for folder in folders]


def fetch_kernels(cache: Path, bucket: ModelBucket) -> list[str]:
    """Bring the folders that a cache lacks, and return their names. What fails is logged: replicas then compile."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        names = [PurePosixPath(key).name.removesuffix(SUFFIX) for key in bucket.keys(FOLDER) if key.endswith(SUFFIX)]
    except BucketError as error:
        log.warning("no compiled kernels are taken from the bucket: %s", error)
        return []
    return [name for name in names if not (cache / name).exists() and _is_fetched(name, cache, bucket)]


def _is_fetched(name: str, cache: Path, bucket: ModelBucket) -> bool:
    with tempfile.TemporaryDirectory(dir=cache, prefix=".") as temporary:
        packed, unpacked = Path(temporary, "packed"), Path(temporary, "unpacked")
        try:
            with packed.open("wb") as file:
                file.writelines(bucket.read(f"{FOLDER}/{name}{SUFFIX}", 0))
            with tarfile.open(packed) as archive:
                archive.extractall(unpacked, filter="data")
        except (BucketError, tarfile.TarError, EOFError, zlib.error, OSError) as error:
            log.warning("the compiled kernels %s are not taken from the bucket: %s", name, error)
            return False
        unpacked.rename(cache / name)  # a replica sees all of them or none
    return True
