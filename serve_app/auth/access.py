"""Authentication, scopes and rate limits, which are checked before the body of a request is read."""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from serve_app.auth.failed_attempts import FailedAttempts
from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.rate_limit import Quota, Rate, Rates
from serve_app.auth.tokens import OwnToken, Scope, Token, TokenSettings, TokenStore
from serve_app.auth.usage import UsageBook
from serve_app.backends.redis import Redis
from serve_app.backends.secrets import sha256
from serve_app.errors import ForbiddenError, RateLimitError, UnauthorizedError

REFUSAL_DELAY_S = 1.0  # of each 429, every answer to an owner that floods the service, and addresses that fail often
MAX_DELAYED = 64  # in one ingress replica; each occupies one of its ongoing requests


class Authenticated(NamedTuple):
    """A token that passed all checks, with its limits filled in; `quota` is None where it has no rate limit."""

    token: Token
    quota: Quota | None


def require_right(token: Token, right: Scope) -> None:
    """Raises: ForbiddenError."""
    if right not in token.rights:
        raise ForbiddenError(f"This token lacks the right {right!r}.", rights=list(token.rights))


class Access:
    """Authenticates the requests to one ingress replica, and limits their rates."""

    def __init__(
        self, redis: Redis, settings: TokenSettings, usage: UsageBook, use: OwnerUse, own: OwnToken | None
    ) -> None:
        self._tokens = TokenStore(redis, own)
        self._rates = Rates(redis)
        self._settings = settings
        self._usage = usage
        self.use = use
        self._failed = FailedAttempts()
        self._delayed = 0

    async def authenticate(
        self, authorization: str | None, rights: Sequence[Scope] = (), address: str | None = None
    ) -> Authenticated:
        """Check the token in `Bearer <token>` and that it has these rights, and count the request.

        `address` is the client's, where it is known for sure: one that fails often is answered late.
        Raises: UnauthorizedError; ForbiddenError; RateLimitError; BrokerError.
        """
        try:
            token = await self._token(authorization)
        except UnauthorizedError:
            if address is not None and self._failed.count(address):
                await self._delay()
            raise
        for right in rights:
            require_right(token, right)
        quota = await self._counted(token, makes="create" in rights)
        if self.use.is_flooding(token.owner):
            await self._delay()
        return Authenticated(token, quota)

    async def is_current(self, token: Token) -> bool:
        """Whether a token that was authenticated is neither revoked nor expired since."""
        return await self._tokens.is_current(token)

    async def _token(self, authorization: str | None) -> Token:
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        token = await self._tokens.find(sha256(secret)) if scheme.lower() == "bearer" and secret else None
        if token is None or token.expired(time.time()):
            raise UnauthorizedError("A valid bearer token is needed.", accepted="Authorization: Bearer <token>")
        return token.model_copy(update={"limits": token.limits.filled(self._settings)})

    async def _counted(self, token: Token, *, makes: bool) -> Quota | None:
        """Count the request. Reads have their own limit, so that polling does not use up the limit of avatars."""
        own = token.limits.requests_per_minute or 0
        name, rate = f"{token.id}:read", Rate(self._settings.reads_per_second, 1)
        if makes:
            self._usage.request(token.id)
            name, rate = token.id, Rate(own, 60)
        if not (own and rate.requests):  # a token without a limit for work has none for reads
            return None
        try:
            return await self._rates.hit(name, rate)
        except RateLimitError:
            if makes:
                self._usage.refused(token.id)
            self.use.charge_refusal(token.owner)
            await self._delay()
            raise

    async def _delay(self) -> None:
        """Slow down clients that retry without a pause, so that a flood of requests costs little."""
        if self._delayed < MAX_DELAYED:
            self._delayed += 1
            try:
                await asyncio.sleep(REFUSAL_DELAY_S)
            finally:
                self._delayed -= 1
