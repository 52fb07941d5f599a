"""The commands of operators, as they are typed."""

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.auth import RedisTokens, TokenAuth
from serve_app.broker import BrokerSettings, connect, own_url
from serve_app.cli import cli
from serve_app.tasks import Keys
from tests.conftest import config_file

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


@pytest.mark.parametrize("command", [["models"], ["token"]])
def test_a_group_of_commands_shows_its_help(command: list[str]) -> None:
    assert "Usage" in run.invoke(cli, command).output
