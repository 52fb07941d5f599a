"""Name servers: one that is none, and one on loopback that answers when it is told to."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from dnslib import AAAA, QTYPE, RCODE, RR, A, DNSRecord


class FixedResolver(AbstractResolver):
    """Gives every name the same addresses, so that no test asks a real name server."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        if not self.addresses:
            raise OSError("no such name")
        return [
            ResolveResult(hostname=host, host=a, port=port, family=_family(a), proto=0, flags=socket.AI_NUMERICHOST)
            for a in self.addresses
        ]

    async def close(self) -> None:
        pass


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class NameServer(asyncio.DatagramProtocol):
    """Knows `names` with their addresses; never answers for the domain `slow.test`, and knows nothing else."""

    def __init__(self, names: Mapping[str, Collection[str]]) -> None:
        self.address = ""  # with its port
        self.asked: Counter[str] = Counter()
        self._names = names

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        host, port = transport.get_extra_info("sockname")
        self.address = f"{host}:{port}"

    def datagram_received(self, data: bytes, sender: Any) -> None:
        query = DNSRecord.parse(data)
        name = str(query.q.qname).rstrip(".")
        self.asked[name] += 1
        if not name.endswith("slow.test"):
            self._transport.sendto(self._answer(query, name).pack(), sender)

    def _answer(self, query: DNSRecord, name: str) -> DNSRecord:
        answer = query.reply()
        if name not in self._names:
            answer.header.rcode = RCODE.NXDOMAIN
        for address in self._names.get(name, ()):
            kind, data = ("AAAA", AAAA(address)) if ":" in address else ("A", A(address))
            if query.q.qtype == getattr(QTYPE, kind):
                answer.add_answer(RR(name, query.q.qtype, rdata=data, ttl=60))
        return answer


@asynccontextmanager
async def name_server(names: Mapping[str, Collection[str]]) -> AsyncIterator[NameServer]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(names), ("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
