"""The broker: the Redis or Valkey server of the task records and the queue, external or embedded."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr
from redis import Redis as SyncRedis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import BusyLoadingError, OutOfMemoryError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from deployments.config import Config
from serve_app.backends.circuit_breaker import CircuitBreaker
from serve_app.backends.private_folder import short_folder
from serve_app.backends.secrets import ensure_secret
from serve_app.errors import BrokerError, BrokerFullError

FOLDER = "broker"
PASSWORD_FILE = "broker.password"
TRIES = 4  # over 0.75 s: longer than the embedded server takes to restart
MAX_CONNECTIONS = 64  # of one process; further calls wait for a free one
ANSWER_S = 6  # of one call, including retries
FULL_RETRY_AFTER_S = 30  # memory is freed as records expire
MAX_SOCKET_PATH = 100  # bytes; Linux allows 107, macOS 103


class BrokerSettings(Config):
    """`url`: redis://, rediss:// or unix:// of one server (not a Redis Cluster), Redis 7 or Valkey 7.2 and newer.

    None starts an embedded server on the data directory.
    """

    url: SecretStr | None = None
    prefix: str = Field("face-avatar", pattern=r"^[A-Za-z0-9._-]+$")  # prefix of every key
    appendfsync: Literal["always", "everysec"] = "always"  # of the embedded server
    timeout_s: float = Field(5, ge=1)
    max_memory_mb: int = Field(1024, ge=64)  # MiB, of the embedded server; new tasks are refused at 80% of it


@contextlib.asynccontextmanager
async def broker_errors() -> AsyncIterator[None]:
    """Turns errors of the Redis client into BrokerError, and those of a full one into BrokerFullError.

    A cancellation that the client lost is raised at the end: it uses `asyncio.wait_for`, which in Python 3.11 loses one
    that comes as the awaited call is done.
    """
    task = asyncio.current_task()
    cancellations = 0 if task is None else task.cancelling()
    try:
        # Retries of connecting and of sending are nested and could take minutes together.
        async with asyncio.timeout(ANSWER_S):
            yield
    except OutOfMemoryError as error:
        raise BrokerFullError("The broker's memory is full.", FULL_RETRY_AFTER_S) from error
    except (RedisError, OSError) as error:
        raise BrokerError("The broker does not answer.", retry_after_s=5) from error
    if task is not None and task.cancelling() > cancellations:
        raise asyncio.CancelledError


class Redis(AsyncRedis):
    """The broker in one process: a client whose calls raise BrokerError, with the original error as the cause.

    All who use it share its `breaker`: what one of them finds out, the others need not.
    """

    def __init__(self, pool: BlockingConnectionPool, prefix: str) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self.prefix = prefix
        self.breaker = CircuitBreaker()

    def key(self, *names: str) -> str:
        """The name of a key of this service: `prefix:name:name`."""
        return ":".join((self.prefix, *names))

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections. One whose end a busy machine does not see in time is left to the system."""
        with contextlib.suppress(RedisTimeoutError):
            await super().aclose(close_connection_pool)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command, within ANSWER_S including retries. Raises: BrokerError."""
        async with broker_errors():
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "BrokerPipeline":
        """A pipeline whose `execute` raises BrokerError; `transaction` puts its commands into MULTI and EXEC."""
        return BrokerPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class BrokerPipeline(Pipeline):
    """A pipeline of a `Redis`."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Raises: BrokerError, by default also for commands that fail."""
        async with broker_errors():
            return await super().execute(raise_on_error)


def connect(settings: BrokerSettings, data_dir: Path) -> Redis:
    """A client that connects on first use, and retries for a moment while a server starts."""
    url = settings.url.get_secret_value() if settings.url else own_url(data_dir)
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=settings.timeout_s,  # to wait for a free connection
        decode_responses=True,
        protocol=2,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=min(settings.timeout_s, 1),
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), TRIES),
        retry_on_error=[BusyLoadingError, RedisConnectionError, RedisTimeoutError],
    )
    return Redis(pool, settings.prefix)


def own_url(data_dir: Path) -> str:
    """The URL of the embedded server of a data directory."""
    return f"unix://:{own_password(data_dir)}@{quote(str(socket_path(data_dir)))}"


def own_password(data_dir: Path) -> str:
    """The password of the embedded server of a data directory, created by the first call. Raises: OSError."""
    return ensure_secret(data_dir / PASSWORD_FILE, lambda: secrets.token_urlsafe(32))


def socket_path(data_dir: Path) -> Path:
    """In the data directory, or in a temporary folder if that path is too long for a socket."""
    path = data_dir / FOLDER / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    return short_folder(data_dir) / "valkey.sock"


def ensure_shared_secret(settings: BrokerSettings, name: str, make: Callable[[], str]) -> str:
    """Read or create a secret shared by all nodes. If several processes create it at once, all get the same one.

    `settings` name a server. Raises: RedisError.
    """
    assert settings.url is not None
    url, key = settings.url, f"{settings.prefix}:{name}"
    with SyncRedis.from_url(url.get_secret_value(), decode_responses=True) as redis:
        secret = redis.get(key)
        if secret is None:
            redis.set(key, make(), nx=True)
            secret = redis.get(key)
    assert isinstance(secret, str)
    return secret
