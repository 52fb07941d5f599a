"""The embedded broker: a real server, on its file, for its owner alone."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from serve_app.backends.embedded_valkey import FolderInUseError, ValkeyKeeper, ValkeyServer, check_folder_free
from serve_app.backends.redis import BrokerSettings, connect, own_url, socket_path
from tests.support.brokers import PROGRAMS, servers_of, valkey_server
from tests.support.polling import eventually


@pytest.fixture(scope="module", params=PROGRAMS)
def broker_program(request: pytest.FixtureRequest) -> Iterator[str]:
    with servers_of(request.param) as program:
        yield program


def client(data_dir: Path) -> Redis:
    return Redis.from_url(own_url(data_dir), decode_responses=True)


def answers(data_dir: Path) -> bool:
    try:
        return bool(client(data_dir).ping())
    except RedisError:
        return False


async def start(data_dir: Path) -> ValkeyKeeper:
    keeper = ValkeyKeeper(BrokerSettings(), data_dir)
    await keeper.start()
    return keeper


def test_it_asks_for_the_password_and_nobody_else_can_reach_it(valkey: Path) -> None:
    with pytest.raises(AuthenticationError):
        Redis(unix_socket_path=str(socket_path(valkey))).ping()
    assert client(valkey).ping()
    assert stat.S_IMODE(socket_path(valkey).stat().st_mode) == 0o600
    assert stat.S_IMODE(socket_path(valkey).parent.stat().st_mode) == 0o700
    assert psutil.Process(pid_of(valkey)).net_connections("tcp") == []


def pid_of(data_dir: Path) -> int:
    return int(client(data_dir).info("server")["process_id"])


def test_the_password_is_in_no_list_of_processes(valkey: Path) -> None:
    password = (valkey / "broker.password").read_text().strip()
    process = psutil.Process(pid_of(valkey))
    assert password not in " ".join(process.cmdline())
    assert all(password not in value for value in process.environ().values())


def test_a_folder_takes_one_server_only(valkey: Path) -> None:
    with pytest.raises(FolderInUseError):
        ValkeyServer(valkey).start()
    with pytest.raises(FolderInUseError):
        check_folder_free(valkey)


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    async def scenario() -> None:
        keeper = await start(tmp_path)
        async with connect(BrokerSettings(), tmp_path) as redis:
            await redis.set("kept", "yes")
            before = (await redis.info("server"))["process_id"]
            os.kill(before, signal.SIGKILL)
            assert await redis.get("kept") == "yes"  # the client tries again while the owner starts another
            assert (await redis.info("server"))["process_id"] != before
        keeper.check()
        await keeper.close()

    asyncio.run(scenario())
    check_folder_free(tmp_path)


def test_a_server_that_comes_up_slowly_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.backends.redis.TRIES", 0)  # nobody else waits

    async def scenario() -> None:
        keeper = await start(tmp_path)
        assert answers(tmp_path)
        os.kill(pid_of(tmp_path), signal.SIGKILL)
        await eventually(lambda: asyncio.to_thread(answers, tmp_path))
        keeper.check()
        await keeper.close()

    asyncio.run(scenario())


def test_a_server_that_cannot_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.backends.embedded_valkey.get_binary_path", lambda: "/bin/false")
    with pytest.raises(RuntimeError, match="ended as it started"):
        asyncio.run(start(tmp_path))


def test_it_ends_after_its_last_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        keeper = await start(tmp_path)
        redis = connect(BrokerSettings(), tmp_path)
        await redis.ping()
        ending = asyncio.create_task(keeper.close())
        for number in range(10):  # somebody who still has something to write
            await asyncio.sleep(0)
            await redis.set("last words", number)
        assert not ending.done()
        await redis.aclose()
        await ending

    asyncio.run(scenario())
    check_folder_free(tmp_path)


def test_a_second_start_finds_what_the_first_wrote(tmp_path: Path) -> None:
    async def write_or_read() -> str | None:
        keeper = await start(tmp_path)
        async with connect(BrokerSettings(), tmp_path) as redis:
            before = await redis.getset("runs", "one")
        await keeper.close()
        return before

    assert asyncio.run(write_or_read()) is None
    assert asyncio.run(write_or_read()) == "one"


@pytest.mark.skipif(sys.platform != "linux", reason="only the Linux kernel does that")
def test_the_server_ends_with_an_owner_that_was_killed(tmp_path: Path, poll: Callable[..., Any]) -> None:
    code = (
        f"from pathlib import Path; from serve_app.backends.embedded_valkey import ValkeyServer; import time\n"
        f"ValkeyServer(Path({str(tmp_path)!r})).start(); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code])
    try:
        poll(lambda: answers(tmp_path))
        server = psutil.Process(pid_of(tmp_path))
    finally:
        owner.kill()
        owner.wait()
    poll(lambda: not server.is_running())
    check_folder_free(tmp_path)


def test_a_data_directory_with_a_long_name_has_its_socket_elsewhere(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 25)
    with valkey_server(data_dir):
        assert answers(data_dir)
        assert not socket_path(data_dir).is_relative_to(data_dir)
        assert stat.S_IMODE(socket_path(data_dir).parent.stat().st_mode) == 0o700
    socket_path(data_dir).parent.rmdir()


def test_a_client_ends_though_the_end_of_a_connection_is_not_seen_in_time(
    valkey: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_never_seen(_writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with connect(BrokerSettings(), valkey) as redis:
            await asyncio.gather(*(redis.ping() for _ in range(3)))
            monkeypatch.setattr(asyncio.StreamWriter, "wait_closed", is_never_seen)

    asyncio.run(scenario())
    assert answers(valkey)
