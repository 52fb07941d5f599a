"""`face-avatar models`: fetches the files of pretrained models."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from serve_app.catalog.catalog import HUB, Catalog, ModelFile
from serve_app.catalog.download import prefetch
from serve_app.cli.console import console
from serve_app.settings import DEFAULT_MODELS_DIR

models_cli = typer.Typer(no_args_is_help=True, help="The files of pretrained models.")


@models_cli.callback()
def models() -> None:
    """The files of pretrained models."""


@models_cli.command("prefetch")
def prefetch_models(
    names: Annotated[list[str], typer.Argument(metavar="APP", help="Apps, or downloads of the catalogue.")],
    catalog: Annotated[str, typer.Option(help="A catalogue's name, or its YAML file.")] = "production",
    models_dir: Annotated[
        Path, typer.Option(envvar="FACE_AVATAR_MODELS_DIR", help="Where the files go.")
    ] = DEFAULT_MODELS_DIR,
    mirror: Annotated[str, typer.Option(envvar="HF_ENDPOINT", help="A URL that stands in for Hugging Face.")] = HUB,
    pin: Annotated[bool, typer.Option("--pin", help="Take files without a known SHA-256, and keep theirs.")] = False,
) -> None:
    """Fetch and verify the files that apps need; what is there and right stays."""
    read = Catalog.read([catalog])
    try:
        needed = read.needed(names)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    for name, download in needed.items():
        console.print(f"{name}: {download.licence}, {download.licence_url}")
    with Progress(TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), console=console) as bars:
        bar_ids: dict[ModelFile, TaskID] = {}

        def report(file: ModelFile, size: int) -> None:
            if file not in bar_ids:
                bar_ids[file] = bars.add_task(file.path, total=file.size)
            bars.update(bar_ids[file], completed=size)

        fetched = prefetch(read.files(names), models_dir.expanduser(), mirror=mirror, pin=pin, report=report)
    console.print(f"{len(fetched)} fetched, the others were there and right." if fetched else "All there and right.")
