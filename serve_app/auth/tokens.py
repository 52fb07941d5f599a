"""Tokens, their scopes and limits, and where they are stored: only the SHA-256 of a token is."""

import hmac
import math
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from deployments.config import Config
from serve_app.auth.recent import Recent
from serve_app.backends.lua import Script
from serve_app.backends.redis import Redis
from serve_app.backends.secrets import TOKEN_BYTES, TOKEN_DIGEST_FILE, ensure_token, sha256
from serve_app.errors import BrokerError
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.progress import MAX_CHANGES

OWNER = "owner"  # the name of the token of a data directory
ID_CHARS = 16  # of the digest: enough to tell tokens apart, too few to authenticate
FRESH_S = 1.0  # a revoked token may work for so long
STALE_S = 3600  # a token that was seen works for so long while the broker is unavailable

Scope = Literal["create", "read", "cancel"]
"""create: avatars and preflights; read: the owner's tasks and their events; cancel: cancel or delete them."""

SCOPES: tuple[Scope, ...] = get_args(Scope)


class TokenSettings(Config):
    """The limits of tokens without limits of their own. 0: no limit."""

    requests_per_minute: int = Field(60, ge=0)  # for work: avatars and preflights
    reads_per_second: int = Field(20, ge=0)  # all others; only for tokens that have a limit for work
    images: int = Field(8, ge=0)  # at once in synchronous requests, over all ingress replicas
    queued: int = Field(200, ge=0)  # unfinished queued tasks of the token's owner
    images_per_day: int = Field(0, ge=0)  # in UTC, over all ingress replicas; bounds what one token may cost
    usage_days: int = Field(90, ge=30)  # how long usage is kept


class Limits(BaseModel):
    """A token's own limits; None: the limit of the settings, 0: no limit."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    requests_per_minute: int | None = Field(None, ge=0)
    images: int | None = Field(None, ge=0)
    queued: int | None = Field(None, ge=0)
    images_per_day: int | None = Field(None, ge=0)

    def filled(self, defaults: TokenSettings) -> "Limits":
        """These limits, with those of the settings where they are None."""
        return Limits(**(defaults.model_dump() | self.model_dump(exclude_none=True)))


UNLIMITED = Limits(requests_per_minute=0, images=0, queued=0, images_per_day=0)


class Token(BaseModel):
    """A stored token. `owner` owns the tasks that are created with it: tokens of one owner share them."""

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
        """The start of the digest: its key in the broker, and what usage and lists name it by."""
        return token_id(self.digest)

    def expired(self, now: float) -> bool:
        """Whether `expires_at` is reached at `now`, unix seconds; never without `expires_at`."""
        return self.expires_at is not None and self.expires_at <= now


class TokenGrant(NamedTuple):
    """The properties of a new token."""

    name: str
    expires_at: float | None = None  # unix seconds
    rights: Sequence[Scope] = SCOPES
    limits: Limits = Limits()
    owner: str | None = None  # whose tasks it shares; None: it becomes its own owner


class OwnToken:
    """The token of a data directory, created at the first start, with all rights and without limits.

    The file `token` may be deleted once its content is saved elsewhere; a new `token.sha256` applies within FRESH_S.
    """

    def __init__(self, data_dir: Path) -> None:
        ensure_token(data_dir)
        self._file = data_dir / TOKEN_DIGEST_FILE
        self._token: Token | None = None
        self._read_at = -math.inf  # monotonic

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
    """Tokens by their ids in the broker, and the token of the data directory where the service has its own broker.

    A token that was seen within STALE_S still works while the broker is unavailable.
    """

    def __init__(self, redis: Redis, own: OwnToken | None = None) -> None:
        self._redis = redis
        self._key = redis.key("tokens")
        self._changes = TaskKeys(redis.prefix).changes
        self._revoke = Script(redis, Path(__file__).with_name("revoke_token.lua"))
        self._own = own
        self._seen: Recent[Token] = Recent(STALE_S)

    async def find(self, digest: str) -> Token | None:
        """The token of a digest, even if it has expired. Raises: BrokerError."""
        own = self._own.token if self._own is not None else None
        if own is not None and hmac.compare_digest(own.digest, digest):
            return own
        seen, age_s = self._seen.with_age(digest)
        if seen is not None and age_s < (STALE_S if self._redis.breaker.is_open else FRESH_S):
            return seen
        try:
            value: Any = await self._redis.hget(self._key, token_id(digest))
        except BrokerError as error:
            if seen is not None and age_s < STALE_S:
                self._redis.breaker.open(error, "recently seen tokens still work")
                return seen
            raise
        found = None if value is None else Token.model_validate_json(value)
        if found is None or not hmac.compare_digest(found.digest, digest):
            self._seen.forget(digest)
            return None
        self._seen.set(digest, found)
        return found

    async def by_id(self, token_id: str) -> Token | None:
        """The token with this id, unless it is revoked or expired. Raises: BrokerError."""
        token = self._own.token if self._own is not None else None
        if token is None or token.id != token_id:
            value: Any = await self._redis.hget(self._key, token_id)
            token = None if value is None else Token.model_validate_json(value)
        return None if token is None or token.expired(time.time()) else token

    async def is_current(self, token: Token) -> bool:
        """Whether a token that `find` returned earlier still counts; true while the broker is unavailable."""
        if token.expired(time.time()):
            return False
        own = self._own.token if self._own is not None else None
        if own is not None and own.digest == token.digest:
            return True
        return await self._redis.breaker.call(
            lambda: self._redis.hexists(self._key, token.id), True, "tokens of open streams are not checked"
        )

    async def add(self, grant: TokenGrant) -> str:
        """Create a token; returns its secret, which is not stored.

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
        """Revoke a token, and end the streams that it has open; false where it was revoked already.

        Raises: BrokerError.
        """
        revoked = await self._revoke(
            tokens=self._key, changes=self._changes, token_id=token.id, max_changes=MAX_CHANGES
        )
        return bool(revoked)


def token_id(digest: str) -> str:
    """The public id of a token by its digest (hex): the first ID_CHARS."""
    return digest[:ID_CHARS]
