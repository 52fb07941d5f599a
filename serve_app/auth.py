"""The bearer token and the signing key of a data directory."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from serve_app.errors import UnauthorizedError

TOKEN_FILE = "token"
TOKEN_DIGEST_FILE = "token.sha256"
SIGNING_KEY_FILE = "signing.key"


class TokenAuth:
    """Checks bearer tokens against the SHA-256 of the one that counts; the token itself is not kept."""

    def __init__(self, digest: str) -> None:
        self._digest = digest

    @classmethod
    def of(cls, data_dir: Path) -> "TokenAuth":
        """The token of a data directory, made at the first start; `token` may be deleted once it was noted down."""
        ensure_token(data_dir)
        return cls((data_dir / TOKEN_DIGEST_FILE).read_text().strip())

    def check(self, authorization: str | None) -> None:
        """Raises: UnauthorizedError unless the header says `Bearer <token>`."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or not hmac.compare_digest(sha256(token), self._digest):
            raise UnauthorizedError("A valid bearer token is needed.", accepted="Authorization: Bearer <token>")


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def ensure_token(data_dir: Path) -> None:
    """Make `token` and `token.sha256` where the data directory has none; a token put there by hand counts too.

    Raises: ValueError where that one is empty.
    """
    digest = data_dir / TOKEN_DIGEST_FILE
    if not digest.exists():
        token = _ensure_secret(data_dir / TOKEN_FILE, lambda: secrets.token_urlsafe(32))
        if not token:
            raise ValueError(f"{data_dir / TOKEN_FILE} is empty: write a token into it, or delete it")
        _ensure_secret(digest, lambda: sha256(token))


def signing_key(data_dir: Path) -> bytes:
    """32 bytes, the same for every process that shares the data directory."""
    return bytes.fromhex(_ensure_secret(data_dir / SIGNING_KEY_FILE, lambda: secrets.token_hex(32)))


def _ensure_secret(path: Path, make: Callable[[], str]) -> str:
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
