"""Lua scripts in files of their own."""

import asyncio
import contextlib
import threading
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import pytest
from redis import Redis as SyncRedis

import serve_app
from serve_app.backends.lua import Script
from serve_app.backends.redis import BrokerSettings, connect, own_url
from serve_app.errors import BrokerError


def scripts(folder: Traversable) -> dict[str, str]:
    """The text of each script in a folder of the package as it is installed, and in those below it."""
    found = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= scripts(entry)
        elif entry.name.endswith(".lua"):
            found[entry.name] = entry.read_text()
    return found


def test_every_script_is_in_the_package_and_compiles(valkey: Path) -> None:
    packaged = scripts(resources.files(serve_app))
    assert packaged.keys() >= {"task.lua", "claim.lua", "snapshot.lua", "add_use.lua", "acquire_slots.lua"}
    with SyncRedis.from_url(own_url(valkey)) as redis:
        for text in packaged.values():
            assert redis.script_load(text)
        for other in {text for name, text in packaged.items() if "unpack(ARGV, 6)" in text}:
            assert redis.script_load(packaged["task.lua"] + other)


def script_of(tmp_path: Path, *texts: str) -> list[Path]:
    files = [tmp_path / f"{number}.lua" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return files


def test_keys_and_arguments_come_by_the_names_of_the_script(valkey: Path, tmp_path: Path) -> None:
    files = script_of(
        tmp_path,
        "local one, two = unpack(KEYS)\nlocal a = unpack(ARGV)\n",
        "local b, c = unpack(ARGV, 2)\nreturn {one, two, a, b, c}",
    )

    async def scenario() -> None:
        async with connect(BrokerSettings(), valkey) as redis:
            script = Script(redis, *files)
            assert await script(c=3, b=2, a=1, two="y", one="x") == ["x", "y", "1", "2", "3"]
            for wrong in (
                {"a": 1, "b": 2, "one": "x", "two": "y"},
                dict.fromkeys("abcd", "") | {"one": "", "two": ""},
            ):
                with pytest.raises(TypeError, match="the script takes"):
                    await script(**wrong)

    asyncio.run(scenario())


def test_names_that_would_overlap_are_refused(valkey: Path, tmp_path: Path) -> None:
    files = script_of(tmp_path, "local a, b = unpack(ARGV)\n", "local c = unpack(ARGV, 2)\n")

    async def scenario() -> None:
        async with connect(BrokerSettings(), valkey) as redis:
            with pytest.raises(ValueError, match="does not begin after"):
                Script(redis, *files)

    asyncio.run(scenario())


def test_a_fault_in_a_script_is_an_error_of_the_broker(valkey: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with connect(BrokerSettings(), valkey) as redis:
            with pytest.raises(BrokerError):
                await Script(redis, *script_of(tmp_path, "return redis.call('GET')"))()

    asyncio.run(scenario())


def test_a_call_that_is_cancelled_at_any_moment_is_cancelled(valkey: Path, tmp_path: Path) -> None:
    async def ask_and_wait(script: Script) -> None:
        await script(a=1)
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with connect(BrokerSettings(), valkey) as redis:
            script = Script(redis, *script_of(tmp_path, "local a = unpack(ARGV)\nreturn a"))
            await script(a=1)
            for turns in range(30):  # of the event loop; a call takes a few
                asking = asyncio.create_task(ask_and_wait(script))
                for _ in range(turns):
                    await asyncio.sleep(0)
                asking.cancel()
                done, _ = await asyncio.wait([asking], timeout=5)
                assert done, f"cancelled after {turns} turns, it goes on"

    asyncio.run(scenario())


def test_a_script_runs_on_a_broker_that_forgets_it_at_any_time(valkey: Path, tmp_path: Path) -> None:
    """As a broker does that restarts between loading a script and calling it."""
    over = threading.Event()

    def forget() -> None:
        with SyncRedis.from_url(own_url(valkey)) as redis:
            while not over.is_set():
                redis.script_flush()

    async def scenario() -> None:
        async with connect(BrokerSettings(), valkey) as redis:
            script = Script(redis, *script_of(tmp_path, "local a = unpack(ARGV)\nreturn a"))
            for number in range(100):
                assert await script(a=number) == str(number)
            for number in range(20):
                async with redis.pipeline() as pipe:
                    await script(pipe, a=number)
                    with contextlib.suppress(BrokerError):
                        assert await pipe.execute() == [str(number)]

    forgetting = threading.Thread(target=forget, daemon=True)
    forgetting.start()
    try:
        asyncio.run(scenario())
    finally:
        over.set()
        forgetting.join(timeout=10)
