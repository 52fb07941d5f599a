"""Secrets in files: made once, read by every process that shares the folder."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def ensure_secret(path: Path, make: Callable[[], str]) -> str:
    """Read a secret, or make it with mode 0600. Of several processes that try at once one wins, and all agree."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        own = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        own.touch(mode=0o600)
        own.write_text(make() + "\n")
        try:
            path.hardlink_to(own)  # unlike a rename, fails where somebody else was first
        except FileExistsError:
            pass
        finally:
            own.unlink()
    return path.read_text().strip()
