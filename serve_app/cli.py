"""The command line: `face-avatar serve` and `face-avatar demo`."""

import contextlib
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

import serve_app
from serve_app.auth import TOKEN_FILE
from serve_app.demo import DemoError, sample_photo, save_avatars
from serve_app.local import CONFIG, ServiceOptions, StartError, free_port, run_service
from serve_app.schemas import MAX_SEED

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=serve_app.__doc__)
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(serve_app.__version__)
        raise typer.Exit


@cli.callback()
def face_avatar(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """One photo of a face in, consistent avatars of that face out."""


@cli.command()
def serve(
    config: Annotated[Path, typer.Option(help="A Serve config file.")] = CONFIG,
    host: Annotated[str | None, typer.Option(help="Address to listen on; the config's own without it.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the token and the results are kept.")] = None,
    allow_private_urls: Annotated[
        bool, typer.Option("--allow-private-urls", help="Fetch photos from private addresses and any port, too.")
    ] = False,
) -> None:
    """Run the service until interrupted."""
    options = ServiceOptions(config, host, port, data_dir, allow_private_urls)
    started = time.monotonic()
    _end_on_signals()
    with console.status("") as status, run_service(options, status.update) as service:
        status.stop()
        console.print(f"Ready after {time.monotonic() - started:.0f} s; ctrl-C ends it.")
        console.print(f"  service    {service.url}")
        console.print(f"  docs       {service.url}/docs")
        console.print(f"  dashboard  {service.dashboard_url}  (asks for the token that `ray get-auth-token` prints)")
        console.print(f"  token      in {service.data_dir / TOKEN_FILE}")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        status.start()
    console.print("Stopped.")


@cli.command()
def demo(
    photo: Annotated[
        Path | None,
        typer.Argument(help="A photo of a face; a sample without it.", exists=True, dir_okay=False, readable=True),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the avatars.")] = Path("avatars"),
    batch: Annotated[int, typer.Option(min=1, max=8, help="How many avatars.")] = 4,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same avatars.")] = None,
) -> None:
    """Start the service, send it a photo, write the avatars, and end it again."""
    started = time.monotonic()
    picture = photo if photo is not None else sample_photo()
    _end_on_signals()
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as data_dir, console.status("") as status:
        options = ServiceOptions(port=free_port(), data_dir=Path(data_dir))

        def report(what: str) -> None:
            status.update(f"{time.monotonic() - started:4.0f} s  {what}")

        with run_service(options, report) as service:
            console.print(f"{time.monotonic() - started:5.1f} s  service ready at {service.url}")
            made = save_avatars(service, picture, output, batch=batch, seed=seed, report=report)
            seconds = time.monotonic() - started
            console.print(f"{seconds:5.1f} s  {batch} {'avatar' if batch == 1 else 'avatars'} of {picture.name}")
    for path, similarity in made.avatars:
        shown = "no face found" if similarity is None else f"{similarity:.2f}"
        console.print(f"         {path}  similarity {shown}")
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in made.stages.items())
    console.print(f"         {stages}; together {made.runtime_s:.2f} s")


def _end_on_signals() -> None:
    """The first SIGINT or SIGTERM raises KeyboardInterrupt; the next ones do not disturb the clean-up."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)


def main() -> None:
    try:
        cli()
    except (StartError, DemoError) as error:
        errors.print(f"[red]error:[/red] {error}")
        sys.exit(1)
