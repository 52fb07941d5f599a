"""Copies model files to the operator's own bucket, from which every node then fetches them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serve_app.catalog.bucket import BucketError, ModelBucket
from serve_app.catalog.download import PrefetchError, Report
from serve_app.catalog.model_files import ModelFile
from serve_app.catalog.pins import Pins

FILES_AT_ONCE = 4


def mirror(
    files: Sequence[ModelFile], models_dir: Path, bucket: ModelBucket, report: Report = lambda _file, _size: None
) -> list[ModelFile]:
    """Copy the files that a bucket lacks, and return them; a prefetch into `models_dir` has verified all of them.

    Raises: PrefetchError where the bucket does not take one. What was copied stays, and is not copied again.
    """
    pins = Pins(models_dir)

    def copied(file: ModelFile) -> bool:
        path, sha256 = models_dir / file.path, pins.expected(file)
        if sha256 is None:  # prefetch refuses such a file
            raise PrefetchError(f"no SHA-256 is known of {file.path}")
        try:
            is_lacking = bucket.size(sha256) != path.stat().st_size
            if is_lacking:
                bucket.write(sha256, path)
        except BucketError as error:
            raise PrefetchError(f"{file.path} cannot be copied to the bucket: {error}") from error
        report(file, path.stat().st_size)
        return is_lacking

    with ThreadPoolExecutor(FILES_AT_ONCE, "mirror") as pool:
        return [file for file, is_new in zip(files, pool.map(copied, files), strict=True) if is_new]
