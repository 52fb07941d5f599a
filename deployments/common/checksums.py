"""The files that a model was loaded from, by what is in them: receipts of images name these."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256_by_name(files: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """The digests of files under the names that a receipt gives them. Reads every byte. Raises: OSError."""
    return {name: file_sha256(path) for name, path in files}


def file_sha256(path: Path) -> str:
    """The hex digest of a file. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
