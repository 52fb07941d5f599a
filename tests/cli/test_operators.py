"""The commands of operators, as they are typed."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from serve_app.auth.access import Access
from serve_app.auth.owner_use import OwnerUse
from serve_app.auth.tokens import OwnToken, Scope, Token, TokenSettings
from serve_app.auth.usage import UsageBook
from serve_app.backends.redis import BrokerSettings, connect, own_url
from serve_app.cli.root import cli
from serve_app.errors import GivenUpError, UnauthorizedError
from serve_app.generation.execution import failure_outcome
from serve_app.tasks.store import TaskStore
from tests.support.service import config_file
from tests.support.tasks import task

run = CliRunner()


def token(*arguments: str) -> str:
    """What `face-avatar token` prints."""
    result = run.invoke(cli, ["token", *arguments])
    assert result.exit_code == 0, result.output
    return result.output.strip()


def let_in(data_dir: Path, prefix: str, secret: str, *rights: Scope) -> Token | None:
    """The token as a running service sees it; None where it lets nobody in."""

    async def admit() -> Token | None:
        async with connect(BrokerSettings(prefix=prefix), data_dir) as redis:
            book = UsageBook(redis, 90)
            access = Access(redis, TokenSettings(), book, OwnerUse(redis), OwnToken(data_dir))
            try:
                return (await access.authenticate(f"Bearer {secret}", rights)).token
            except UnauthorizedError:
                return None
            finally:
                await book.close()

    return asyncio.run(admit())


def test_a_token_is_created_listed_and_revoked_on_a_cluster(valkey: Path, tmp_path: Path) -> None:
    config = ["--config", str(config_file(tmp_path, broker={"url": own_url(valkey), "prefix": "test"}))]
    wanted = ["--expires", "30d", "--scope", "create", "--scope", "read", "--rate", "7", "--images", "4"]
    wanted += ["--images-per-day", "500"]
    secret = token("create", "ann", *wanted, *config)
    ann = let_in(valkey, "test", secret, "create")
    assert ann is not None
    assert (ann.rights, ann.limits.requests_per_minute, ann.limits.images) == (("create", "read"), 7, 4)

    sister = let_in(valkey, "test", token("create", "ann 2", "--shares", "ann", *config))
    assert sister is not None
    assert (sister.owner, sister.rights) == (ann.owner, ("create", "read", "cancel"))

    [listed, _] = json.loads(token("list", "--json", *config))
    assert (listed["name"], listed["id"], listed["scopes"]) == ("ann", ann.id, ["create", "read"])
    assert listed["expires_at"] - listed["created_at"] == pytest.approx(30 * 86400, abs=60)
    assert listed["limits"] == {"requests_per_minute": 7, "images": 4, "queued": 200, "images_per_day": 500}
    assert (listed["today"]["requests"], listed["last_30_days"]["requests"]) == (1, 1)
    assert listed["used_at"]
    line = next(line for line in token("list", *config).splitlines() if line.startswith("ann "))
    assert {ann.id, "7/min", "create", "read"} <= set(line.split())
    assert secret not in token("list", "--json", *config)

    token("revoke", ann.id, *config)
    assert let_in(valkey, "test", secret) is None
    assert "ann 2" in token("list", *config)


def test_one_machine_has_its_own_token_and_others_beside_it(valkey: Path, tmp_path: Path) -> None:
    here = ["--config", str(config_file(tmp_path, broker={"prefix": "own"})), "--data-dir", str(valkey)]
    ann = token("create", "ann", *here)
    own = (valkey / "token").read_text().strip()
    assert [listed["name"] for listed in json.loads(token("list", "--json", *here))] == ["owner", "ann"]
    assert let_in(valkey, "own", own)
    assert "token" in token("revoke", "owner", *here)
    assert let_in(valkey, "own", own) is None
    assert let_in(valkey, "own", (valkey / "token").read_text().strip())
    assert let_in(valkey, "own", ann)


@pytest.mark.parametrize(
    "command",
    [
        ["revoke", "nobody"],
        ["create", "ann", "--shares", "nobody"],
        ["create", "ann", "--expires", "soon"],
        ["create", "ann", "--scope", "everything"],
        ["create", "owner"],
    ],
)
def test_what_no_token_can_be_is_refused(valkey: Path, tmp_path: Path, command: list[str]) -> None:
    here = ["--config", str(config_file(tmp_path, broker={"prefix": "odd"})), "--data-dir", str(valkey)]
    assert run.invoke(cli, ["token", *command, *here]).exit_code == 2


def test_an_app_that_the_catalogue_lacks_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    result = run.invoke(cli, ["models", "prefetch", "nobody", "--models-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "face-avatar-sdxl" in result.output


def test_a_dry_run_prints_files_sizes_licences_and_sums_and_fetches_nothing(tmp_path: Path) -> None:
    there = tmp_path / "models" / "yunet" / "face_detection_yunet_2023mar.onnx"
    there.parent.mkdir(parents=True)
    there.write_bytes(bytes(232_589))
    command = ["models", "prefetch", "yunet", "auraface", "--dry-run", "--models-dir", str(tmp_path / "models")]
    result = run.invoke(cli, command)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith("yunet: MIT, https://github.com/opencv/opencv_zoo/")
    assert lines[1:4] == [
        "  yunet/face_detection_yunet_2023mar.onnx: 232.6 kB",
        "auraface: Apache-2.0, https://huggingface.co/fal/AuraFace-v1",
        "  auraface/glintr100.onnx: 260.7 MB",
    ]
    assert " ".join(lines[4:]) == f"2 files, 260.9 MB; 1 of them, 260.7 MB, are not in {tmp_path / 'models'}."
    assert [path.name for path in (tmp_path / "models").rglob("*")] == ["yunet", there.name]


def test_a_dry_run_says_what_is_not_known_of_a_file(tmp_path: Path) -> None:
    files = {"a.onnx": {}, "b.json": {"size": 2000, "sha256": "ab" * 32}}
    download = {
        "repo": "owner/name",
        "revision": "0" * 40,
        "licence": "MIT",
        "licence_url": "https://models.example/licence",
        "folder": "model",
        "files": files,
    }
    catalogue = tmp_path / "own.yaml"
    catalogue.write_text(yaml.safe_dump({"downloads": {"mine": download}, "apps": {}}))
    options = ["--dry-run", "--catalog", str(catalogue), "--models-dir", str(tmp_path / "none")]
    output = run.invoke(cli, ["models", "prefetch", "mine", *options]).output
    assert "  model/a.onnx: size unknown; no SHA-256 is published: --pin keeps the one it comes with\n" in output
    assert "  model/b.json: 2.0 kB\n" in output
    assert "2 files, 2.0 kB and 1 of unknown size; 2 of them" in output


@pytest.mark.parametrize("command", [["models"], ["tasks"], ["token"]])
def test_a_group_of_commands_shows_its_help(command: list[str]) -> None:
    assert "Usage" in run.invoke(cli, command).output


def test_dead_tasks_are_listed_shown_and_queued_again(valkey: Path, tmp_path: Path) -> None:
    config = ["--config", str(config_file(tmp_path, broker={"url": own_url(valkey), "prefix": "dead"}))]

    async def kill(*names: str) -> None:
        async with connect(BrokerSettings(prefix="dead"), valkey) as redis:
            store = TaskStore(redis, "worker", 60)
            for name in names:
                await store.create(task(name), "STARTED")
                await store.finish(task(name), "FAILED", failure_outcome(GivenUpError("Three died.")), dead=True)
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
