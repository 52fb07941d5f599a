"""Looks up the host names in URLs of clients, through c-ares.

`getaddrinfo` runs in the few threads that uvloop shares for it, where a handful of slow names stops all other look-ups,
and goes on after its caller has left. A look-up here is a c-ares channel of its own on the event loop: no thread waits
for it, and closing the channel ends its queries.

It asks c-ares itself instead of aiodns, because aiohttp would use an installed aiodns for every session of the
environment, those of Ray's dashboard and agents too.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

import pycares
from aiohttp.abc import AbstractResolver, ResolveResult

LOOKUP_S = 3.0  # a whole look-up: IPv4 and IPv6, all name servers and search domains
TRY_S, TRIES = 1.0, 2  # the second try waits twice as long
AT_ONCE, AT_ONCE_OF_OWNER = 64, 4  # look-ups of one process
TICK_S = 0.1  # between looks at which queries are to be repeated
NO_SOCKET = pycares.ARES_SOCKET_BAD


class NameLookups:
    """The look-ups of one process, limited in number for each owner. Bound to the event loop of its first look-up."""

    def __init__(self, name_servers: tuple[str, ...] = ()) -> None:
        """Asks `name_servers` (`address` or `address:port`), those of the system where it is empty."""
        self._name_servers = name_servers
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._slots_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of_owner(self, owner: str) -> AbstractResolver:
        """A resolver for aiohttp whose look-ups count as those of `owner`."""
        return OwnerResolver(self, owner)

    async def addresses(self, host: str, port: int, family: int, owner: str) -> list[ResolveResult]:
        """Raises: OSError where the name is unknown, or not answered within `LOOKUP_S`."""
        async with self._slot(owner):
            try:
                async with asyncio.timeout(LOOKUP_S):
                    nodes = await self._ask(host, port, family)
            except (TimeoutError, pycares.AresError) as error:
                raise OSError("the name was not looked up") from error
        return [_result(host, port, node) for node in nodes]

    @asynccontextmanager
    async def _slot(self, owner: str) -> AsyncIterator[None]:
        # The owner's own limit comes first, so that it has few places in the line for the common one.
        async with self._slots_of.setdefault(owner, asyncio.Semaphore(AT_ONCE_OF_OWNER)), self._slots:
            yield

    async def _ask(self, host: str, port: int, family: int) -> list[pycares.AddrInfoNode]:
        """Raises: OSError where the name is unknown."""
        answer: asyncio.Future[pycares.AddrInfoResult | int] = asyncio.get_running_loop().create_future()

        def answered(found: pycares.AddrInfoResult | None, error: int) -> None:
            if not answer.done():
                answer.set_result(error if found is None else found)

        with _channel(self._name_servers) as channel:
            kind = socket.SOCK_STREAM
            channel.getaddrinfo(host, port, family=socket.AddressFamily(family), type=kind, callback=answered)
            while not answer.done():
                await asyncio.wait([answer], timeout=TICK_S)
                if not answer.done():
                    channel.process_fd(NO_SOCKET, NO_SOCKET)  # repeats the queries whose time is over
        found = answer.result()
        if isinstance(found, int):
            raise OSError(pycares.errno.strerror(found))
        return found.nodes


class OwnerResolver(AbstractResolver):
    """What aiohttp asks for the addresses of a name."""

    def __init__(self, lookups: NameLookups, owner: str) -> None:
        self._lookups = lookups
        self._owner = owner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """aiohttp calls it for a host that is not a numeric address. Raises: OSError, also after LOOKUP_S."""
        return await self._lookups.addresses(host, port, family, self._owner)

    async def close(self) -> None:
        """Nothing to close: each look-up has its own channel."""


@contextmanager
def _channel(name_servers: tuple[str, ...]) -> Iterator[pycares.Channel]:
    """A c-ares channel whose sockets the running event loop watches; the end of the block cancels its queries."""
    loop = asyncio.get_running_loop()
    watched: set[int] = set()

    def unwatch(fd: int) -> None:
        loop.remove_reader(fd)
        loop.remove_writer(fd)
        watched.discard(fd)

    def watch(fd: int, readable: bool, writable: bool) -> None:
        """c-ares calls it for each of its sockets, with False twice before it closes one."""
        if fd in watched:
            unwatch(fd)
        if readable:
            loop.add_reader(fd, channel.process_fd, fd, NO_SOCKET)
        if writable:
            loop.add_writer(fd, channel.process_fd, NO_SOCKET, fd)
        if readable or writable:
            watched.add(fd)

    channel = pycares.Channel(sock_state_cb=watch, timeout=TRY_S, tries=TRIES, servers=name_servers or None)
    try:
        yield channel
    finally:
        channel.cancel()
        for fd in [*watched]:
            unwatch(fd)
        channel.close()


def _result(host: str, port: int, node: pycares.AddrInfoNode) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=node.addr[0].decode("ascii"),
        port=port,
        family=node.family,
        proto=0,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
