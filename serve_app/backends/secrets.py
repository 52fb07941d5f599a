"""The secrets of a data directory: its own token, of which only the SHA-256 is needed, and the key that signs."""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

TOKEN_FILE = "token"
TOKEN_DIGEST_FILE = "token.sha256"
SIGNING_KEY_FILE = "signing.key"
TOKEN_BYTES = 32


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def ensure_token(data_dir: Path) -> None:
    """Make `token` and `token.sha256` where the data directory has none; a token put there by hand counts too.

    Raises: ValueError where that one is empty.
    """
    digest = data_dir / TOKEN_DIGEST_FILE
    if not digest.exists():
        token = ensure_secret(data_dir / TOKEN_FILE, lambda: secrets.token_urlsafe(TOKEN_BYTES))
        if not token:
            raise ValueError(f"{data_dir / TOKEN_FILE} is empty: write a token into it, or delete it")
        ensure_secret(digest, lambda: sha256(token))


def renew_token(data_dir: Path) -> None:
    """Take the token of a data directory back, and make another."""
    for name in (TOKEN_FILE, TOKEN_DIGEST_FILE):
        (data_dir / name).unlink(missing_ok=True)
    ensure_token(data_dir)


def signing_key(data_dir: Path) -> bytes:
    """32 bytes, the same for every process that shares the data directory."""
    return bytes.fromhex(ensure_secret(data_dir / SIGNING_KEY_FILE, lambda: secrets.token_hex(32)))


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
