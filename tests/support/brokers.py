"""Brokers that run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError
from redis.retry import Retry

from serve_app.broker import own_url
from serve_app.valkey import ValkeyServer


@contextlib.contextmanager
def valkey_server(data_dir: Path, appendfsync: str = "always") -> Iterator[ValkeyServer]:
    """A server on this data directory that answers; ended after the block."""
    server = ValkeyServer(data_dir, appendfsync)
    server.start()
    try:
        tries = Retry(ConstantBackoff(0.02), 500)
        with Redis.from_url(own_url(data_dir), retry=tries, retry_on_error=[BusyLoadingError]) as client:
            client.ping()
        yield server
    finally:
        server.stop()
