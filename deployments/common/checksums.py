"""Checksums of model files, which the receipts of images name."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol


class FileCheck(Protocol):
    """Verifies files that a stage is about to load. Must be picklable."""

    def check(self) -> None:
        """Blocks, and may read every byte of them. Raises: OSError; ValueError for a file that may not be loaded."""
        ...


def sha256_by_name(files: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """SHA-256 digests by the names that a receipt gives the files. Reads every byte. Raises: OSError."""
    return {name: file_sha256(path) for name, path in files}


def file_sha256(path: Path) -> str:
    """The hex digest of a file. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
