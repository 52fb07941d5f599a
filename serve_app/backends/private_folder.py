"""Folders that only their owner can enter."""

import hashlib
import os
import stat
from pathlib import Path

PRIVATE = 0o700
TEMPORARY = Path("/tmp")  # not $TMPDIR, which may be long, and other with another process of the same user


def ensure_private_folder(folder: Path) -> None:
    """Make a folder for its owner alone; one of ours that others may enter is closed to them.

    Raises: PermissionError where it, or the link to it, belongs to another user; OSError.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
    if folder.stat().st_uid != os.getuid() or folder.lstat().st_uid not in (0, os.getuid()):
        raise PermissionError(f"{folder} belongs to another user")
    if is_open_to_others(folder):
        folder.chmod(PRIVATE)


def is_open_to_others(folder: Path) -> bool:
    """Whether the folder's group or others have any right to it. Raises: OSError."""
    return bool(folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def short_folder(data_dir: Path) -> Path:
    """A temporary folder of a data directory, for sockets whose path in that directory would be too long."""
    digest = hashlib.sha256(os.fsencode(f"{os.getuid()}:{data_dir}")).hexdigest()
    return TEMPORARY / f"face-avatar-{digest[:16]}"
