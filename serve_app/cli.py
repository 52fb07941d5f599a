"""The command line: one function a command; what each does is in the modules that it calls."""

import contextlib
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape

import serve_app
from serve_app.backends.data_dir_secrets import TOKEN_FILE
from serve_app.catalog.download import PrefetchError
from serve_app.client import ClientError, ConnectionFailedError, FaceAvatarClient
from serve_app.client_options import (
    AVATARS,
    ConfigOption,
    ConsentOption,
    DataDirOption,
    OutputOption,
    TokenFileOption,
    TokenOption,
    UrlOption,
)
from serve_app.demo import draw_avatars
from serve_app.doctor import examine, lines
from serve_app.errors import BrokerError
from serve_app.generate import DEFAULT_URL, InterruptedWaitError, is_url, read_token, summary
from serve_app.generate_command import generate
from serve_app.local import CONFIG, RunningService, ServiceOptions, StartError, free_port, read_config, run_service
from serve_app.models_command import models_cli
from serve_app.operators import tasks_cli
from serve_app.photos.sample import sample_photo
from serve_app.replay import read_receipt, replay
from serve_app.schemas.requests import MAX_SEED
from serve_app.signals import end_on_signals
from serve_app.token_commands import token_cli
from serve_app.verify_command import verify

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=serve_app.__doc__)
cli.add_typer(models_cli, name="models")
cli.add_typer(tasks_cli, name="tasks")
cli.add_typer(token_cli, name="token")
cli.command()(generate)
cli.command()(verify)
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
    end_on_signals()
    with console.status("") as status, run_service(options, status.update) as service:
        status.stop()
        console.print(f"Ready after {time.monotonic() - started:.0f} s; ctrl-C ends it.")
        console.print(f"  page       {page_url(service)}")
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
    output: OutputOption = AVATARS,
    batch: Annotated[int, typer.Option(min=1, max=8, help="How many avatars.")] = 4,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same avatars.")] = None,
) -> None:
    """Start the service, send it a photo, write the avatars, and end it again."""
    started = time.monotonic()
    picture = photo if photo is not None else sample_photo()
    end_on_signals()
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as data_dir, console.status("") as status:
        options = ServiceOptions(port=free_port(), data_dir=Path(data_dir))

        def report(what: str) -> None:
            status.update(f"{time.monotonic() - started:4.0f} s  {what}")

        with run_service(options, report) as service:
            console.print(f"{time.monotonic() - started:5.1f} s  service ready at {service.url}")
            task, saved = draw_avatars(service, picture, output, batch=batch, seed=seed, report=report)
            console.print(f"{time.monotonic() - started:5.1f} s  {_count(batch)} of {picture.name}", markup=False)
    for line in summary(task, saved):
        console.print(f"         {line}", markup=False)


@cli.command(name="replay")
def replay_command(
    receipt: Annotated[Path, typer.Argument(help="A receipt as JSON, or an envelope with receipts.")],
    photo: Annotated[str, typer.Argument(help="The photo that it was drawn from: a file, or an http(s) URL.")],
    image: Annotated[int, typer.Option(min=0, help="Which image of the envelope, the first one is 0.")] = 0,
    output: OutputOption = AVATARS,
    consent: ConsentOption = False,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Draw an avatar again from its receipt, and say what differs; exit code 1 if the pixels do."""
    known = read_receipt(receipt, image)
    source = photo if is_url(photo) else Path(photo)
    with FaceAvatarClient(url, read_token(token, token_file)) as client:
        replay(client, known, source, output, console, errors, consent=consent)


def page_url(service: RunningService) -> str:
    """Where the playground is. Whoever sees the terminal of a service may use it; what goes into a log has no token."""
    loopback = urlsplit(service.url).hostname in ("127.0.0.1", "::1", "localhost")
    token = service.data_dir / TOKEN_FILE  # which may have been deleted
    if not (loopback and console.is_terminal and token.exists()):
        return f"{service.url}/"
    return f"{service.url}/#token={token.read_text().strip()}"  # a fragment: browsers do not send it


@cli.command()
def doctor(config: ConfigOption = CONFIG, data_dir: DataDirOption = None) -> None:
    """Check this machine and what the service needs, and say what to do; exit code 1 if it cannot work."""
    schema, settings = read_config(ServiceOptions(config, data_dir=data_dir))
    with errors.status("looking"):
        findings = examine(schema, settings, os.environ)
    for line in lines(findings):
        console.print(line)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def _count(avatars: int) -> str:
    return f"{avatars} {'avatar' if avatars == 1 else 'avatars'}"


def main() -> None:
    try:
        cli()
    except InterruptedWaitError as error:
        errors.print(str(error), markup=False)
        sys.exit(130)
    except (StartError, ClientError, PrefetchError, BrokerError) as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}")
        if isinstance(error, ConnectionFailedError) and not error.reached:
            errors.print("Is the service running? `face-avatar serve` starts it.")
        sys.exit(1)


if __name__ == "__main__":
    main()
