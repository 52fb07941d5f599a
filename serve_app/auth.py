"""Who may ask: bearer tokens, of which only the SHA-256 is kept."""

import hashlib
import hmac
import math
import secrets
import time
from pathlib import Path
from typing import Protocol

from redis.asyncio import Redis

from serve_app.broker import broker_errors
from serve_app.errors import BrokerError, UnauthorizedError
from serve_app.secret_files import ensure_secret

TOKEN_FILE = "token"
TOKEN_DIGEST_FILE = "token.sha256"
SIGNING_KEY_FILE = "signing.key"
OWNER_CHARS = 16  # of the digest: enough to tell tokens apart, too few to stand for one
FRESH_S = 15  # so long a token that was taken back may still count
STALE_S = 3600


class Tokens(Protocol):
    """Where the digests of the tokens are."""

    async def known(self, digest: str) -> bool:
        """Raises: BrokerError."""
        ...


class FileToken:
    """The one token of a data directory, made at the first start; `token` may be deleted once it was noted down."""

    def __init__(self, data_dir: Path) -> None:
        ensure_token(data_dir)
        self._digest = (data_dir / TOKEN_DIGEST_FILE).read_text().strip()

    async def known(self, digest: str) -> bool:
        return hmac.compare_digest(digest, self._digest)


class RedisTokens:
    """The tokens of a cluster: digest -> name. One that was seen lately still counts while Redis does not answer."""

    def __init__(self, redis: Redis, key: str) -> None:
        self._redis = redis
        self._key = key
        self._seen: dict[str, float] = {}

    async def known(self, digest: str) -> bool:
        seen = self._seen.get(digest, -math.inf)
        if time.monotonic() - seen < FRESH_S:
            return True
        try:
            async with broker_errors():
                known = bool(await self._redis.hexists(self._key, digest))
        except BrokerError:
            if time.monotonic() - seen < STALE_S:
                return True
            raise
        if known:
            self._seen[digest] = time.monotonic()
        else:
            self._seen.pop(digest, None)
        return known

    async def add(self, name: str) -> str:
        """A new token, which is kept nowhere but in the hands of the caller."""
        token = secrets.token_urlsafe(32)
        async with broker_errors():
            await self._redis.hset(self._key, sha256(token), name)
        return token


class TokenAuth:
    """Checks bearer tokens by their SHA-256."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def owner(self, authorization: str | None) -> str:
        """Who asks: the beginning of the digest of the token in `Bearer <token>`.

        Raises: UnauthorizedError; BrokerError.
        """
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        digest = sha256(token)
        if scheme.lower() != "bearer" or not token or not await self._tokens.known(digest):
            raise UnauthorizedError("A valid bearer token is needed.", accepted="Authorization: Bearer <token>")
        return digest[:OWNER_CHARS]


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def ensure_token(data_dir: Path) -> None:
    """Make `token` and `token.sha256` where the data directory has none; a token put there by hand counts too.

    Raises: ValueError where that one is empty.
    """
    digest = data_dir / TOKEN_DIGEST_FILE
    if not digest.exists():
        token = ensure_secret(data_dir / TOKEN_FILE, lambda: secrets.token_urlsafe(32))
        if not token:
            raise ValueError(f"{data_dir / TOKEN_FILE} is empty: write a token into it, or delete it")
        ensure_secret(digest, lambda: sha256(token))


def signing_key(data_dir: Path) -> bytes:
    """32 bytes, the same for every process that shares the data directory."""
    return bytes.fromhex(ensure_secret(data_dir / SIGNING_KEY_FILE, lambda: secrets.token_hex(32)))
