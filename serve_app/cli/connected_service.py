"""Access to the Redis of a configured service, for the commands of operators."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from serve_app.auth.tokens import OwnToken, TokenStore
from serve_app.backends.redis import Redis, connect
from serve_app.launcher import ServiceOptions, read_config
from serve_app.settings import Settings
from serve_app.tasks.store import TaskStore

T = TypeVar("T")


class ConnectedService(NamedTuple):
    """The settings of a service and a client of its broker, which is closed when `with_service` returns."""

    settings: Settings
    redis: Redis

    @property
    def tasks(self) -> TaskStore:
        """The task records; leases taken here belong to `operator`."""
        return TaskStore(self.redis, "operator", self.settings.result_ttl_s)

    @property
    def tokens(self) -> TokenStore:
        """The tokens, with that of the data directory where the broker is embedded; creates that one if missing."""
        own = OwnToken(self.settings.data_dir) if self.settings.broker.url is None else None
        return TokenStore(self.redis, own)


def with_service(config: Path, data_dir: Path | None, work: Callable[[ConnectedService], Awaitable[T]]) -> T:
    """The result of `work` on the service that a config file describes. Raises: StartError; BrokerError."""
    _, settings = read_config(ServiceOptions(config, data_dir=data_dir))

    async def run() -> T:
        async with connect(settings.broker, settings.data_dir) as redis:
            return await work(ConnectedService(settings, redis))

    return asyncio.run(run())
