"""The secrets of a data directory: its token, of which only the SHA-256 is needed, and the signing key."""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from serve_app.backends.private_folder import PRIVATE, ensure_private_folder, is_open_to_others

TOKEN_FILE = "token"
TOKEN_DIGEST_FILE = "token.sha256"
SIGNING_KEY_FILE = "signing.key"
TOKEN_BYTES = 32
OWN_FILES = (TOKEN_FILE, TOKEN_DIGEST_FILE, SIGNING_KEY_FILE)


def sha256(token: str) -> str:
    """The SHA-256 of a token's UTF-8, 64 hex digits: what is stored and compared in its place."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def ensure_data_dir(data_dir: Path) -> None:
    """Make a data directory for its owner alone, or close one of ours that others may enter: results are in it.

    Raises: PermissionError where it belongs to another user, or is open to others and no data directory; OSError.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
    if is_open_to_others(data_dir) and not is_data_dir(data_dir):  # for example /tmp, which root could close to all
        raise PermissionError(f"others may enter {data_dir}, which is no data directory: chmod 700 it, or take another")
    ensure_private_folder(data_dir)


def is_data_dir(folder: Path) -> bool:
    """Whether a folder is one that a service made, or empty."""
    return any((folder / name).exists() for name in OWN_FILES) or not any(folder.iterdir())


def ensure_token(data_dir: Path) -> None:
    """Create `token` and `token.sha256` if missing; a token file written by hand is kept.

    Raises: ValueError where that file is empty; as `ensure_data_dir`.
    """
    ensure_data_dir(data_dir)
    digest = data_dir / TOKEN_DIGEST_FILE
    if not digest.exists():
        token = ensure_secret(data_dir / TOKEN_FILE, lambda: secrets.token_urlsafe(TOKEN_BYTES))
        if not token:
            raise ValueError(f"{data_dir / TOKEN_FILE} is empty: write a token into it, or delete it")
        ensure_secret(digest, lambda: sha256(token))


def renew_token(data_dir: Path) -> None:
    """Revoke the token of a data directory and create a new one."""
    for name in (TOKEN_FILE, TOKEN_DIGEST_FILE):
        (data_dir / name).unlink(missing_ok=True)
    ensure_token(data_dir)


def signing_key(data_dir: Path) -> bytes:
    """32 bytes, the same for all processes on the data directory."""
    return bytes.fromhex(ensure_secret(data_dir / SIGNING_KEY_FILE, lambda: secrets.token_hex(32)))


def ensure_secret(path: Path, make: Callable[[], str]) -> str:
    """Read a secret, or create it with mode 0600. If several processes create it at once, all get the same one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
    if not path.exists():
        own = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        own.touch(mode=0o600)
        own.write_text(make() + "\n")
        try:
            path.hardlink_to(own)  # unlike a rename, fails if another process was first
        except FileExistsError:
            pass
        finally:
            own.unlink()
    return path.read_text().strip()
