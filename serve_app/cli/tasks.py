"""`face-avatar tasks`: lists tasks, and requeues dead ones."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from serve_app.backends.redis import connect
from serve_app.cli.console import console
from serve_app.cli.options import ConfigOption, DataDirOption
from serve_app.launcher import CONFIG, ServiceOptions, read_config
from serve_app.tasks.models import Keys, TaskRecord
from serve_app.tasks.store import TaskStore

tasks_cli = typer.Typer(no_args_is_help=True, help="The tasks of a service, and those that were given up.")

T = TypeVar("T")


@tasks_cli.command("list")
def list_tasks(config: ConfigOption = CONFIG, data_dir: DataDirOption = None) -> None:
    """Count the tasks by their status, and list the dead ones: processes died under them again and again."""

    async def read(store: TaskStore) -> tuple[Counter[str], list[TaskRecord]]:
        return await store.counts(), [record for task_id in await store.dead() if (record := await store.get(task_id))]

    counts, dead = _with_tasks(config, data_dir, read)
    console.print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no tasks")
    for record in dead:
        given_up = datetime.fromtimestamp(record.finished_at or 0, UTC).isoformat(" ", "seconds")
        reason = record.outcome.failure.error_data.get("message") if record.outcome.failure else ""
        console.print(f"dead {record.task.task_id}  {given_up}  {reason}", markup=False)


@tasks_cli.command("show")
def show_task(
    task_id: Annotated[str, typer.Argument(metavar="TASK")],
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = None,
) -> None:
    """Print the record of a task as JSON."""
    record = _with_tasks(config, data_dir, lambda store: store.get(task_id))
    if record is None:
        raise typer.BadParameter(f"there is no task {task_id}, or not any more")
    console.print_json(record.model_dump_json(exclude={"task": {"webhook"}}))  # its URL may contain a secret


@tasks_cli.command("requeue")
def requeue_tasks(
    task_ids: Annotated[list[str] | None, typer.Argument(metavar="TASK", help="Dead tasks.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are dead.")] = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = None,
) -> None:
    """Queue dead tasks as if they had come now; the images that they have stay."""
    if bool(task_ids) == every:
        raise typer.BadParameter("give either tasks or --all")

    async def requeue(store: TaskStore) -> dict[str, bool]:
        ids = await store.dead() if every else task_ids or []
        records = {task_id: await store.get(task_id) for task_id in ids}
        return {task_id: record is not None and await store.requeue(record) for task_id, record in records.items()}

    queued = _with_tasks(config, data_dir, requeue)
    for task_id, done in queued.items():
        console.print(f"{task_id} {'is queued again' if done else 'is not dead'}", markup=False)
    if not all(queued.values()):
        raise typer.Exit(1)


def _with_tasks(config: Path, data_dir: Path | None, work: Callable[[TaskStore], Awaitable[T]]) -> T:
    """Calls `work` with the tasks of a configured service. Raises: StartError; BrokerError."""
    _, settings = read_config(ServiceOptions(config, data_dir=data_dir))

    async def run() -> T:
        async with connect(settings.broker, settings.data_dir) as redis:
            return await work(TaskStore(redis, Keys(settings.broker.prefix), "operator", settings.result_ttl_s))

    return asyncio.run(run())
