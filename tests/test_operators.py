"""The commands of operators, as they are typed."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.auth import RedisTokens, TokenAuth
from serve_app.broker import BrokerSettings, connect, own_url
from serve_app.cli import cli
from serve_app.errors import GivenUpError
from serve_app.runner import failed
from serve_app.tasks import Keys, TaskStore
from tests.conftest import config_file
from tests.test_tasks import task

run = CliRunner()


def test_a_token_that_was_created_is_let_in(valkey: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path, broker={"url": own_url(valkey), "prefix": "test"})
    result = run.invoke(cli, ["token", "create", "ann", "--config", str(config)])
    assert result.exit_code == 0, result.output
    token = result.output.strip()

    async def owner() -> str:
        async with connect(BrokerSettings(), valkey) as redis:
            return await TokenAuth(RedisTokens(redis, Keys("test").tokens)).owner(f"Bearer {token}")

    assert asyncio.run(owner())


def test_one_machine_has_one_token_and_says_where(tmp_path: Path) -> None:
    config = config_file(tmp_path, data_dir=str(tmp_path))
    result = run.invoke(cli, ["token", "create", "ann", "--config", str(config)])
    assert result.exit_code == 2
    assert "token" in result.output


def test_an_app_that_the_catalogue_lacks_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    result = run.invoke(cli, ["models", "prefetch", "nobody", "--models-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "face-avatar-sd15" in result.output


@pytest.mark.parametrize("command", [["models"], ["tasks"], ["token"]])
def test_a_group_of_commands_shows_its_help(command: list[str]) -> None:
    assert "Usage" in run.invoke(cli, command).output


def test_dead_tasks_are_listed_shown_and_queued_again(valkey: Path, tmp_path: Path) -> None:
    config = ["--config", str(config_file(tmp_path, broker={"url": own_url(valkey), "prefix": "dead"}))]

    async def kill(*names: str) -> None:
        async with connect(BrokerSettings(), valkey) as redis:
            store = TaskStore(redis, Keys("dead"), "worker", 60)
            for name in names:
                await store.create(task(name), "STARTED")
                await store.finish(task(name), "FAILED", failed(GivenUpError("Three died.")), dead=True)
            await store.create(task("alive"), "STARTED")

    asyncio.run(kill("a", "b", "c"))
    listed = run.invoke(cli, ["tasks", "list", *config]).output
    assert "3 FAILED, 1 STARTED" in listed
    assert [line.split()[1] for line in listed.splitlines() if line.startswith("dead")] == ["a", "b", "c"]
    assert "Three died." in listed
    assert json.loads(run.invoke(cli, ["tasks", "show", "a", *config]).output)["status"] == "FAILED"

    some = run.invoke(cli, ["tasks", "requeue", "a", "alive", *config])
    assert (some.exit_code, some.output.splitlines()) == (1, ["a is queued again", "alive is not dead"])
    assert run.invoke(cli, ["tasks", "requeue", "--all", *config]).exit_code == 0
    assert "1 STARTED" in run.invoke(cli, ["tasks", "list", *config]).output
    assert "3 PENDING" in run.invoke(cli, ["tasks", "list", *config]).output


def test_a_task_that_is_not_there_is_an_error(valkey: Path, tmp_path: Path) -> None:
    config = ["--config", str(config_file(tmp_path, broker={"url": own_url(valkey), "prefix": "none"}))]
    result = run.invoke(cli, ["tasks", "show", "nobody", *config])
    assert result.exit_code == 2
    assert "nobody" in result.output
    assert run.invoke(cli, ["tasks", "requeue", *config]).exit_code == 2
