"""`face-avatar tasks`: lists tasks, and requeues dead ones."""

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated

import typer

from serve_app.cli.connected_service import ConnectedService, with_service
from serve_app.cli.console import console
from serve_app.cli.options import ConfigOption, DataDirOption
from serve_app.launcher import CONFIG
from serve_app.tasks.models import TaskRecord

tasks_cli = typer.Typer(no_args_is_help=True, help="The tasks of a service, and those that were given up.")


@tasks_cli.command("list")
def list_tasks(config: ConfigOption = CONFIG, data_dir: DataDirOption = None) -> None:
    """Count the tasks by their status, and list the dead ones: processes died under them again and again."""

    async def read(service: ConnectedService) -> tuple[Counter[str], list[TaskRecord]]:
        store = service.tasks
        return await store.counts(), [record for task_id in await store.dead() if (record := await store.get(task_id))]

    counts, dead = with_service(config, data_dir, read)
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
    record = with_service(config, data_dir, lambda service: service.tasks.get(task_id))
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

    async def requeue(service: ConnectedService) -> dict[str, bool]:
        store = service.tasks
        ids = await store.dead() if every else task_ids or []
        records = {task_id: await store.get(task_id) for task_id in ids}
        return {task_id: record is not None and await store.requeue(record) for task_id, record in records.items()}

    queued = with_service(config, data_dir, requeue)
    for task_id, done in queued.items():
        console.print(f"{task_id} {'is queued again' if done else 'is not dead'}", markup=False)
    if not all(queued.values()):
        raise typer.Exit(1)
