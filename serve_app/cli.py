"""`face-avatar`: the commands, and what their errors become."""

import sys
from typing import Annotated

import typer
from rich.markup import escape

import serve_app
from serve_app.catalog.download import PrefetchError
from serve_app.client import ClientError, ConnectionFailedError
from serve_app.consoles import console, errors
from serve_app.demo import demo
from serve_app.doctor import doctor
from serve_app.errors import BrokerError
from serve_app.generate import InterruptedWaitError, generate
from serve_app.local import StartError
from serve_app.models_command import models_cli
from serve_app.operators import tasks_cli
from serve_app.replay import replay_command
from serve_app.serve_command import serve
from serve_app.token_commands import token_cli
from serve_app.verify_command import verify

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
