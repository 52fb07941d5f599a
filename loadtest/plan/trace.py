"""Writes the requests of a service as a trace for `python -m loadtest.plan --trace`, from the records of its tasks.

    python -m loadtest.plan.trace trace.jsonl --config serve_app/config/production.yaml

Where the broker is reached as `face-avatar tasks` reaches it. A record is there until its results are deleted (a day,
`result_ttl_s`); requests that were refused have none. A line says when a request came (seconds after the first), for
which app, size, steps and batch, and a number for its owner: no name, token, prompt, photo or task.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from loadtest.plan.loads import Request, trace_line
from serve_app.catalog.apps import App
from serve_app.catalog.catalog import Catalog
from serve_app.cli.connected_service import ConnectedService, with_service
from serve_app.errors import BrokerError
from serve_app.launcher import CONFIG
from serve_app.local_ray import StartError
from serve_app.tasks.models import Task


def requests_of(tasks: Sequence[Task], apps: Mapping[str, App]) -> Iterator[Request]:
    """One request for each task whose app is known, in order of submission. Owners are numbered as they come."""
    owners: dict[str, str] = {}
    for task in tasks:
        request, app = task.request, apps.get(task.request.app_id)
        if app is None:
            continue
        width, height = app.native_size(request.width, request.height)
        yield Request(
            at_s=round(task.submitted_at - tasks[0].submitted_at, 3),
            tenant=owners.setdefault(task.owner, f"t{len(owners) + 1}"),
            app=request.app_id,
            width=width,
            height=height,
            steps=request.num_inference_steps,
            guided=app.has_guidance and request.guidance_scale > 1,
            batch=request.batch,
            queued=request.celery,
            low=request.priority == "low",
            deadline_s=request.deadline_s,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """`arguments` of None: those of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.plan.trace",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the Serve config file of the service")
    parser.add_argument("--data-dir", type=Path, help="its data directory, where it runs on this machine")
    options = parser.parse_args(arguments)

    async def read(service: ConnectedService) -> list[Request]:
        apps = Catalog.read(service.settings.catalogs).apps
        return list(requests_of(await service.tasks.all_tasks(), apps))

    try:
        requests = with_service(options.config, options.data_dir, read)
    except (StartError, BrokerError, ValueError) as error:
        parser.error(str(error))
    if not requests:
        parser.exit(1, "the service has no records of tasks\n")
    try:
        options.out.write_text("".join(f"{trace_line(request)}\n" for request in requests))
    except OSError as error:
        parser.error(str(error))
    print(f"{len(requests)} requests in {options.out}")


if __name__ == "__main__":
    main()
