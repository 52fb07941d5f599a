"""The tokens: what each may do, and where they are kept. Of the token itself that is its SHA-256 alone."""

import hmac
import math
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis

from deployments.config import Config
from serve_app.backends.circuit_breaker import CircuitBreaker
from serve_app.backends.secrets import TOKEN_BYTES, TOKEN_DIGEST_FILE, ensure_token, sha256
from serve_app.errors import BrokerError

OWNER = "owner"  # the name of the token that a data directory has
ID_CHARS = 16  # of the digest: enough to tell tokens apart, too few to stand for one
FRESH_S = 1.0  # so long a token that was taken back may still count
STALE_S = 3600  # so long one that was seen counts while the broker is away

Scope = Literal["create", "read", "cancel"]
"""create: avatars, and looks at photos; read: its owner's tasks and their events; cancel: end or delete them."""

SCOPES: tuple[Scope, ...] = get_args(Scope)


class TokenSettings(Config):
    """What goes for tokens that were made without limits of their own. 0: no limit."""

    requests_per_minute: int = Field(60, ge=0)  # that ask for work: avatars, looks at photos
    reads_per_second: int = Field(20, ge=0)  # all others; of every token that has a limit for work
    images: int = Field(8, ge=0)  # being made at once for synchronous requests, over all ingress replicas
    queued: int = Field(200, ge=0)  # unfinished queued tasks of the token's owner
    usage_days: int = Field(90, ge=30)  # how long usage is kept


class Limits(BaseModel):
    """A token's own limits; None: that of the settings, 0: none."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    requests_per_minute: int | None = Field(None, ge=0)
    images: int | None = Field(None, ge=0)
    queued: int | None = Field(None, ge=0)

    def filled(self, defaults: TokenSettings) -> "Limits":
        """These, with the settings' own where there are none."""
        return Limits(**(defaults.model_dump() | self.model_dump(exclude_none=True)))


UNLIMITED = Limits(requests_per_minute=0, images=0, queued=0)


class Token(BaseModel):
    """What is known of a token. `owner` is whose the tasks are that come with it: tokens of one owner share them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    digest: str
    name: str
    owner: str
    created_at: float  # unix seconds
    expires_at: float | None = None
    rights: tuple[Scope, ...] = SCOPES
    limits: Limits = Limits()

    @property
    def id(self) -> str:
        return token_id(self.digest)

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now


class TokenGrant(NamedTuple):
    """What a new token shall be."""

    name: str
    expires_at: float | None = None  # unix seconds
    rights: Sequence[Scope] = SCOPES
    limits: Limits = Limits()
    owner: str | None = None  # whose tasks it shares; its own without it


class OwnToken:
    """The one of a data directory, made at the first start: it may do everything, without limits.

    `token` may be deleted once it was noted down; a new `token.sha256` counts within FRESH_S.
    """

    def __init__(self, data_dir: Path) -> None:
        ensure_token(data_dir)
        self._file = data_dir / TOKEN_DIGEST_FILE
        self._token: Token | None = None
        self._read_at = -math.inf  # by the monotonic clock

    @property
    def token(self) -> Token | None:
        """None where its file is gone."""
        if time.monotonic() - self._read_at >= FRESH_S:
            self._token, self._read_at = self._read(), time.monotonic()
        return self._token

    def _read(self) -> Token | None:
        try:
            digest, created_at = self._file.read_text().strip(), self._file.stat().st_mtime
        except FileNotFoundError:
            return None
        return Token(digest=digest, name=OWNER, owner=token_id(digest), created_at=created_at, limits=UNLIMITED)


class TokenStore:
    """Tokens by their ids in the broker, and the one of the data directory where the service has its own broker.

    Whoever was seen lately still counts while the broker is away.
    """

    def __init__(
        self, redis: Redis, key: str, own: OwnToken | None = None, breaker: CircuitBreaker | None = None
    ) -> None:
        self._redis = redis
        self._key = key
        self._own = own
        self._breaker = breaker or CircuitBreaker()
        self._seen: dict[str, tuple[Token, float]] = {}  # and when, by the monotonic clock

    async def find(self, digest: str) -> Token | None:
        """The token of a digest; an expired one, too. Raises: BrokerError."""
        own = self._own.token if self._own is not None else None
        if own is not None and hmac.compare_digest(own.digest, digest):
            return own
        seen, seen_at = self._seen.get(digest, (None, 0.0))
        age_s = time.monotonic() - seen_at
        if seen is not None and age_s < (STALE_S if self._breaker.is_open else FRESH_S):
            return seen
        try:
            found = await self._get(token_id(digest))
        except BrokerError as error:
            if seen is not None and age_s < STALE_S:
                self._breaker.open(error, "tokens that were seen lately count")
                return seen
            raise
        if found is None or not hmac.compare_digest(found.digest, digest):
            self._seen.pop(digest, None)
            return None
        self._seen[digest] = found, time.monotonic()
        return found

    async def add(self, grant: TokenGrant) -> str:
        """A new token, which is kept nowhere but in the hands of the caller.

        Raises: ValueError where another has its name; BrokerError.
        """
        if grant.name in [token.name for token in await self.all()]:
            raise ValueError(f"there is a token {grant.name!r} already")
        secret = secrets.token_urlsafe(TOKEN_BYTES)
        digest = sha256(secret)
        token = Token(
            digest=digest,
            name=grant.name,
            owner=grant.owner or token_id(digest),
            created_at=time.time(),
            expires_at=grant.expires_at,
            rights=tuple(grant.rights),
            limits=grant.limits,
        )
        await self._redis.hset(self._key, token.id, token.model_dump_json())
        return secret

    async def all(self) -> list[Token]:
        """The oldest first. Raises: BrokerError."""
        found: Any = await self._redis.hgetall(self._key)
        tokens = [Token.model_validate_json(value) for value in found.values()]
        own = self._own.token if self._own is not None else None
        return [*([own] if own else []), *sorted(tokens, key=lambda token: token.created_at)]

    async def named(self, name: str) -> Token | None:
        """The token with this name or id. Raises: BrokerError."""
        return next((token for token in await self.all() if name in (token.name, token.id)), None)

    async def revoke(self, token: Token) -> bool:
        """Take a token back; false where somebody did already. Raises: BrokerError."""
        return bool(await self._redis.hdel(self._key, token.id))

    async def _get(self, name: str) -> Token | None:
        value: Any = await self._redis.hget(self._key, name)
        return None if value is None else Token.model_validate_json(value)


def token_id(digest: str) -> str:
    return digest[:ID_CHARS]
