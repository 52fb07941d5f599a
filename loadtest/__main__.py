"""Runs a load test and writes a report."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loadtest.load.answers import read_answers, read_counts
from loadtest.load.run import Load, LoadEnd, Records, run_load
from loadtest.load.shapes import ShapeName
from loadtest.metrics.figures import Figures, NothingMeasuredError, figures_of
from loadtest.metrics.scrape import Scraper, exporters
from loadtest.report import table
from loadtest.report.report import as_html, as_json
from loadtest.report.setting import Setting, settings_of
from serve_app.cli.options import read_token
from serve_app.cli.signals import end_on_signals
from serve_app.client import ClientError
from serve_app.launcher import CONFIG, ServiceOptions, free_port, run_service
from serve_app.local_ray import StartError

REPORT_INTERVAL, REPORT_MS = "RAY_metrics_report_interval_ms", 2000  # Ray's own is 10 s, too long for a short test
REPORTS = Path(__file__).parent / "reports"

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Target:
    """The service under load; `settings` are known only where it was started for the test."""

    url: str
    token: str
    name: str
    settings: dict[str, Any]
    exporters: Callable[[], list[str]]  # URLs of metrics pages; none for a remote service without --metrics


def load_test(
    users: Annotated[int, typer.Option(min=2, help="How many users at once, at most.")] = 4,
    seconds: Annotated[int, typer.Option(min=1, help="For how long they send requests.")] = 60,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="The same in minutes; wins over seconds.")] = None,
    shape: Annotated[ShapeName, typer.Option(help="How many of the users are there at which time.")] = "steady",
    config: Annotated[Path, typer.Option(help="The Serve config file of the service.", dir_okay=False)] = CONFIG,
    url: Annotated[str | None, typer.Option(help="A service that runs already, instead.")] = None,
    token: Annotated[str | None, typer.Option(envvar="FACE_AVATAR_TOKEN", help="The bearer token of that one.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="FACE_AVATAR_TOKEN_FILE", help="Its file; that of the data directory.")
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="A page of metrics of that one, such as http://NODE:PORT/metrics.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The report; a new file in loadtest/reports without it.")] = None,
    json: Annotated[Path | None, typer.Option(help="The same figures as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives every user the same requests.")] = 0,
) -> None:
    """Put load on a service that is started for it (or on one that runs: --url), and leave a report."""
    load = Load(users, seconds if minutes is None else round(minutes * 60), seed, shape)
    end_on_signals()
    with tempfile.TemporaryDirectory(prefix="face-avatar-load-") as name, console.status("") as status:
        folder = Path(name)
        records = Records.within(folder)
        with contextlib.ExitStack() as stack:
            if url is None:
                target = stack.enter_context(_own_service(config, folder / "data", status.update))
            else:
                target = Target(url.rstrip("/"), read_token(token, token_file), url, {}, lambda: metrics or [])
            scraper = stack.enter_context(Scraper(target.exporters))
            end = run_load(load, target.url, target.token, records, status.update)
        figures = figures_of(list(read_answers(records.answers)), list(read_counts(records.counts)), scraper.scrapes)
        setting = Setting(target.name, load, end.interrupted, target.settings)
        report = out or REPORTS / time.strftime("load-%Y%m%d-%H%M%S.html")
        _write(report, as_html(figures, setting))
        if json:
            _write(json, as_json(figures, setting))
    _show(figures, report)
    raise typer.Exit(_exit_code(figures, end))


@contextlib.contextmanager
def _own_service(config: Path, data_dir: Path, report: Callable[[str], None]) -> Iterator[Target]:
    """Raises: StartError."""
    os.environ.setdefault(REPORT_INTERVAL, str(REPORT_MS))
    options = ServiceOptions(config=config, port=free_port(), data_dir=data_dir)
    settings = settings_of(options)
    with run_service(options, report) as service:
        yield Target(service.url, service.token, f"started for this test ({config.name})", settings, exporters)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _show(figures: Figures, report: Path) -> None:
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(table.HEAD):
        shown.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
    for row in table.rows(figures):
        shown.add_row(*row)
    console.print(shown)
    console.print(", ".join(f"{value} {name}" for name, value in table.summary(figures).items()))
    for problem, count in figures.problems:
        console.print(f"{count} x {problem}", markup=False)
    console.print(f"report: {report}", markup=False)


def _exit_code(figures: Figures, end: LoadEnd) -> int:
    if end.problem:
        errors.print(end.problem, markup=False)
    if end.interrupted:
        return 130
    return 1 if figures.wrong or end.problem else 0


def main() -> None:
    """Runs `load_test` by the command line; exits with 1 where the service does not start or nothing was answered."""
    try:
        typer.run(load_test)
    except (StartError, ClientError, NothingMeasuredError) as error:
        errors.print(str(error), markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
