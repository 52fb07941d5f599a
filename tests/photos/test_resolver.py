"""Name look-ups, at a real name server on loopback."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from serve_app.photos import resolver
from serve_app.photos.resolver import AT_ONCE_OF_OWNER, NameLookups
from tests.support.polling import eventually
from tests.support.resolvers import NameServer, name_server

NAMES = {
    "one.test": ["127.0.0.1"],
    "both.test": ["192.0.2.7", "2001:db8::7"],
    "xn--bcher-kva.test": ["192.0.2.8"],
    "127.0.0.1.evil.test": ["192.0.2.9"],
}
PORT = 80

Scenario = Callable[[NameServer, NameLookups], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a scenario, on the event loop of tests and on that of Serve's replicas. No look-up ends by itself."""
    monkeypatch.setattr(resolver, "LOOKUP_S", 3600)
    monkeypatch.setattr(resolver, "TRY_S", 3600)

    def run(scenario: Scenario) -> None:
        async def within() -> None:
            async with asyncio.timeout(30), name_server(NAMES) as server:
                await scenario(server, NameLookups((server.address,)))

        request.param(within())

    return run


async def found(lookups: NameLookups, host: str, owner: str = "ann") -> set[str]:
    addresses = await lookups.addresses(host, PORT, socket.AF_UNSPEC, owner)
    assert {address["port"] for address in addresses} == {PORT}
    return {address["host"] for address in addresses}


async def started(server: NameServer, count: int) -> None:
    async def asked() -> bool:
        return len([name for name in server.asked if name.endswith("slow.test")]) >= count

    await eventually(asked)


def test_a_name_gives_its_addresses_of_both_kinds(at: Run) -> None:
    async def scenario(_: NameServer, lookups: NameLookups) -> None:
        assert await found(lookups, "both.test") == {"192.0.2.7", "2001:db8::7"}
        assert await found(lookups, "one.test") == {"127.0.0.1"}
        (v4,) = await lookups.addresses("both.test", PORT, socket.AF_INET, "ann")
        assert (v4["host"], v4["family"], v4["hostname"]) == ("192.0.2.7", socket.AF_INET, "both.test")

    at(scenario)


def test_localhost_and_the_hosts_file_need_no_name_server(at: Run) -> None:
    names = [line.partition("#")[0].split() for line in Path("/etc/hosts").read_text().splitlines()]
    own = [(words[0], words[1]) for words in names if words]

    async def scenario(server: NameServer, lookups: NameLookups) -> None:
        assert "127.0.0.1" in await found(lookups, "localhost")
        for address, name in own:
            assert address in await found(lookups, name)
        assert not server.asked

    at(scenario)


@pytest.mark.parametrize("name", ["unknown.test", "a" * 64 + ".test", "0x7f.1", ""])
def test_an_unknown_name_is_an_error_of_the_system(at: Run, name: str) -> None:
    async def scenario(_: NameServer, lookups: NameLookups) -> None:
        with pytest.raises(OSError, match=r"name|not found"):
            await found(lookups, name)

    at(scenario)


def test_a_name_that_is_not_answered_is_an_error_after_few_tries(at: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "TRY_S", 0.05)

    async def scenario(server: NameServer, lookups: NameLookups) -> None:
        with pytest.raises(OSError, match="Timeout"):
            await found(lookups, "a.slow.test")
        assert server.asked["a.slow.test"] <= 2 * resolver.TRIES  # of both kinds

    at(scenario)


def test_a_look_up_ends_after_its_time_however_many_tries_are_left(at: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LOOKUP_S", 0.05)

    async def scenario(_: NameServer, lookups: NameLookups) -> None:
        with pytest.raises(OSError, match="not looked up"):
            await found(lookups, "a.slow.test")

    at(scenario)


@pytest.mark.parametrize("owners", [1, 50])
def test_fifty_slow_names_of_others_do_not_delay_a_good_one(at: Run, owners: int) -> None:
    async def scenario(server: NameServer, lookups: NameLookups) -> None:
        slow = [asyncio.create_task(found(lookups, f"{i}.slow.test", f"mallory{i % owners}")) for i in range(50)]
        await started(server, min(50, owners * AT_ONCE_OF_OWNER))
        assert await found(lookups, "one.test") == {"127.0.0.1"}
        assert not any(task.done() for task in slow)
        await cancelled(slow)

    at(scenario)


def test_an_owner_waits_for_its_own_slow_names_only_until_they_end(at: Run) -> None:
    async def scenario(server: NameServer, lookups: NameLookups) -> None:
        slow = [asyncio.create_task(found(lookups, f"{i}.slow.test")) for i in range(AT_ONCE_OF_OWNER)]
        await started(server, len(slow))
        good = asyncio.create_task(found(lookups, "one.test"))
        assert await found(lookups, "both.test", "bob")
        assert not good.done()
        assert not server.asked["one.test"]
        await cancelled(slow[:1])
        assert await good == {"127.0.0.1"}
        await cancelled(slow)

    at(scenario)


def test_no_more_look_ups_run_at_once_than_the_process_allows(at: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "AT_ONCE", 3)

    async def scenario(server: NameServer, _: NameLookups) -> None:
        lookups = NameLookups((server.address,))
        slow = [asyncio.create_task(found(lookups, f"{i}.slow.test", f"owner{i}")) for i in range(9)]
        await started(server, 3)
        await found(NameLookups((server.address,)), "one.test")  # time in which more would have been asked
        assert len(server.asked.keys() - {"one.test"}) == 3
        await cancelled(slow)
        assert await found(lookups, "one.test") == {"127.0.0.1"}

    at(scenario)


def test_a_look_up_whose_caller_leaves_keeps_no_query_and_no_socket(at: Run) -> None:
    async def scenario(server: NameServer, lookups: NameLookups) -> None:
        await found(lookups, "one.test")
        before = sockets()
        slow = [asyncio.create_task(found(lookups, f"{i}.slow.test")) for i in range(AT_ONCE_OF_OWNER)]
        await started(server, len(slow))
        assert sockets() > before
        await cancelled(slow)
        assert sockets() == before

    at(scenario)


def sockets() -> int:
    """The sockets that this process has open."""
    links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
    return sum(os.path.lexists(link) and os.readlink(link).startswith("socket:") for link in links)


async def cancelled(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
