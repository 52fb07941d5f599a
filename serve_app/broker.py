"""The broker: where the records and the queue live, a Redis or Valkey server by its URL or one of our own."""

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import Field, SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from deployments.config import Config
from serve_app.errors import BrokerError
from serve_app.secret_files import ensure_secret

FOLDER = "broker"
PASSWORD_FILE = "broker.password"
TRIES = 4  # over 0.75 s: more than our own server needs to start again
MAX_SOCKET_PATH = 100  # bytes; Linux allows 107, macOS 103


class BrokerSettings(Config):
    """`url`: redis://, rediss:// or unix://; None starts a server of our own beside the data directory."""

    url: SecretStr | None = None
    prefix: str = Field("face-avatar", pattern=r"^[A-Za-z0-9._-]+$")  # of every key
    appendfsync: Literal["always", "everysec"] = "always"  # of our own server
    timeout_s: float = Field(5, gt=0)


def connect(settings: BrokerSettings, data_dir: Path) -> "Redis":
    """A client that connects when it is first used, and tries again for a moment while a server comes up."""
    url = settings.url.get_secret_value() if settings.url else own_url(data_dir)
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=min(settings.timeout_s, 1),
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), TRIES),
        retry_on_error=[BusyLoadingError, RedisConnectionError, RedisTimeoutError],
    )


@contextlib.contextmanager
def broker_errors() -> Iterator[None]:
    """Raises: BrokerError for whatever the client of Redis raises."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise BrokerError("The broker does not answer.", retry_after_s=5) from error


def own_url(data_dir: Path) -> str:
    """Where the server of a data directory listens."""
    return f"unix://:{own_password(data_dir)}@{quote(str(socket_path(data_dir)))}"


def own_password(data_dir: Path) -> str:
    return ensure_secret(data_dir / PASSWORD_FILE, lambda: secrets.token_urlsafe(32))


def socket_path(data_dir: Path) -> Path:
    """In the data directory, or, where that has too long a name for a socket, in a temporary folder of its own."""
    path = data_dir / FOLDER / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"face-avatar-{os.getuid()}-{name}" / "valkey.sock"
