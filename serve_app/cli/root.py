"""`face-avatar`: the commands, and the exit codes of their errors."""

import sys
from typing import Annotated

import typer
from rich.markup import escape

import serve_app
from serve_app.catalog.download import PrefetchError
from serve_app.catalog.pins import UnreadablePinsError
from serve_app.cli.console import console, errors
from serve_app.cli.demo import demo
from serve_app.cli.doctor.doctor import doctor
from serve_app.cli.generate import InterruptedWaitError, generate
from serve_app.cli.mcp import mcp
from serve_app.cli.models import models_cli
from serve_app.cli.replay import replay_command
from serve_app.cli.serve import serve
from serve_app.cli.tasks import tasks_cli
from serve_app.cli.tokens import token_cli
from serve_app.cli.verify import verify
from serve_app.client import ClientError, ConnectionFailedError
from serve_app.errors import BrokerError
from serve_app.local_ray import StartError

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=serve_app.__doc__)
cli.add_typer(models_cli, name="models")
cli.add_typer(tasks_cli, name="tasks")
cli.add_typer(token_cli, name="token")
cli.command()(generate)
cli.command()(verify)
cli.command()(serve)
cli.command()(demo)
cli.command(name="replay")(replay_command)
cli.command()(doctor)
cli.command()(mcp)


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


def main() -> None:
    """The program `face-avatar`. An expected error is a line on stderr and exit code 1, ctrl-C in a wait 130."""
    try:
        cli()
    except InterruptedWaitError as error:
        errors.print(str(error), markup=False)
        sys.exit(130)
    except (StartError, ClientError, PrefetchError, UnreadablePinsError, BrokerError) as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}")
        if isinstance(error, ConnectionFailedError) and not error.reached:
            errors.print("Is the service running? `face-avatar serve` starts it.")
        sys.exit(1)
