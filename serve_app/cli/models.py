"""`face-avatar models`: fetches the files of pretrained models, copies them to a bucket, compiles them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from deployments.config import model_path
from deployments.diffusion.precompilation import precompile
from serve_app.app import generator_of_apps
from serve_app.catalog.bucket import BucketError, ModelBucket
from serve_app.catalog.catalog import Catalog
from serve_app.catalog.download import Report, missing, prefetch
from serve_app.catalog.kernels import FOLDER, fetch_kernels, upload_kernels
from serve_app.catalog.mirror import mirror as copy_to_bucket
from serve_app.catalog.model_files import HUB, Download, ModelFile
from serve_app.catalog.pins import LOCK_FILE, Pins
from serve_app.cli.console import console
from serve_app.cli.options import ConfigOption
from serve_app.launcher import ServiceOptions, read_config
from serve_app.local_ray import StartError
from serve_app.settings import DEFAULT_MODELS_DIR

models_cli = typer.Typer(no_args_is_help=True, help="The files of pretrained models.")


@models_cli.callback()
def models() -> None:
    """The files of pretrained models."""


Names = Annotated[list[str], typer.Argument(metavar="APP", help="Apps, or downloads of the catalogue.")]
CatalogOption = Annotated[
    list[str], typer.Option("--catalog", help="A catalogue's name, or its YAML file; repeatable.")
]
DEFAULT_CATALOGUES = ["commercial"]  # as of production.yaml
ModelsDir = Annotated[Path, typer.Option(envvar="FACE_AVATAR_MODELS_DIR", help="Where the files go.")]
Hub = Annotated[str, typer.Option("--mirror", envvar="HF_ENDPOINT", help="A URL that stands in for Hugging Face.")]
Pin = Annotated[bool, typer.Option("--pin", help="Take files without a known SHA-256, and keep theirs.")]
BUCKET_HELP = "s3://BUCKET/PREFIX, gs://…, a URL of Azure, or file:///FOLDER"


@models_cli.command("prefetch")
def prefetch_models(
    names: Names,
    catalogs: CatalogOption = DEFAULT_CATALOGUES,
    models_dir: ModelsDir = DEFAULT_MODELS_DIR,
    mirror: Hub = HUB,
    bucket: Annotated[
        str | None,
        typer.Option(envvar="FACE_AVATAR_MODELS_BUCKET", help=f"A copy that is asked first: {BUCKET_HELP}."),
    ] = None,
    pin: Pin = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Fetch nothing: print the files, their sizes and their licences.")
    ] = False,
) -> None:
    """Fetch and verify the files that apps need; what is there and right stays. HF_TOKEN opens gated repositories."""
    if dry_run:
        _print_files(_needed(names, catalogs), models_dir.expanduser())
        return
    files = _needed_files(names, catalogs)
    opened = None if bucket is None else _opened(bucket)
    with _bars() as report:
        fetched = prefetch(
            files,
            models_dir.expanduser(),
            mirror=mirror,
            hub_token=hub_token(os.environ),
            bucket=opened,
            pin=pin,
            report=report,
        )
    console.print(f"{len(fetched)} fetched, the others were there and right." if fetched else "All there and right.")
    _print_pins(fetched, models_dir.expanduser())
    is_for_generator = any(name in Catalog.read(catalogs).apps for name in names)
    if opened is not None and is_for_generator:
        for kernels in fetch_kernels(models_dir.expanduser() / FOLDER, opened):
            console.print(f"compiled kernels: {kernels}")


@models_cli.command("mirror")
def mirror_models(
    bucket: Annotated[str, typer.Argument(metavar="URL", help=f"{BUCKET_HELP}.")],
    names: Names,
    catalogs: CatalogOption = DEFAULT_CATALOGUES,
    models_dir: ModelsDir = DEFAULT_MODELS_DIR,
    mirror: Hub = HUB,
    pin: Pin = False,
) -> None:
    """Copy the files that apps need to a bucket of your own, by way of the models folder; nodes then fetch from it."""
    files, opened = _needed_files(names, catalogs), _opened(bucket)
    folder = models_dir.expanduser()
    with _bars() as report:
        fetched = prefetch(files, folder, mirror=mirror, hub_token=hub_token(os.environ), pin=pin, report=report)
    _print_pins(fetched, folder)
    with _bars() as report:
        copied = copy_to_bucket(files, folder, opened, report)
    console.print(f"{len(copied)} copied, the others were there." if copied else "All there.")


@models_cli.command("compile")
def compile_models(
    config: ConfigOption,
    bucket: Annotated[str | None, typer.Option(help=f"Copy it there, for prefetch: {BUCKET_HELP}.")] = None,
) -> None:
    """Compile what a generator compiles, into generator.compile_cache: on a machine with the GPU that it is for."""
    opened = None if bucket is None else _opened(bucket)
    _, settings = read_config(ServiceOptions(config))
    try:
        generator = generator_of_apps(settings).located(settings.models_dir)
    except (OSError, ValueError) as error:
        raise StartError(f"{config}: {error}") from error
    if generator.compile_cache is None or not any(model.compile for model in generator.models.values()):
        raise StartError(f"{config}: generator.compile_cache is not set, or no model has `compile: true`")
    failed = 0
    try:
        for shape in precompile(generator, generator.compile_cache):
            width, height = shape.size
            outcome = "compiled" if shape.is_compiled else "failed: it will run uncompiled"
            console.print(f"{shape.model}: {width} x {height} pixels, batches of {shape.batch_size}: {outcome}")
            failed += not shape.is_compiled
    except (OSError, ValueError, RuntimeError) as error:  # weights or a GPU that are not there
        raise StartError(f"{config}: {error}") from error
    if opened is not None:
        try:
            for kernels in upload_kernels(model_path(generator.compile_cache), opened):
                console.print(f"copied to the bucket: {kernels}")
        except BucketError as error:
            raise StartError(f"the kernels cannot be copied to the bucket: {error}") from error
    if failed:
        raise typer.Exit(1)


def hub_token(environment: Mapping[str, str]) -> str | None:
    """Hugging Face's token, where its own programs look for it: HF_TOKEN, or what `hf auth login` has kept."""
    if token := environment.get("HF_TOKEN", "").strip():
        return token
    cache = Path(environment.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    file = Path(environment.get("HF_TOKEN_PATH", Path(environment.get("HF_HOME", cache), "token"))).expanduser()
    return (file.read_text().strip() or None) if file.is_file() else None


def _needed(names: list[str], catalogs: list[str]) -> dict[str, Download]:
    """The downloads of apps, or downloads, by name. Raises: typer.BadParameter."""
    try:
        return Catalog.read(catalogs).needed(names)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


def _needed_files(names: list[str], catalogs: list[str]) -> list[ModelFile]:
    """The files of apps or downloads, whose licences are shown. Raises: typer.BadParameter."""
    needed = _needed(names, catalogs)
    for name, download in needed.items():
        _print_licence(name, download)
    return [file for download in needed.values() for file in download.model_files()]


def _print_licence(name: str, download: Download) -> None:
    console.print(f"{name}: {download.licence}, {download.licence_url}", soft_wrap=True)


def _print_pins(fetched: Sequence[ModelFile], models_dir: Path) -> None:
    """The pins of files for which the catalogue has no digest, as a catalogue has them."""
    pinned = [file for file in fetched if file.sha256 is None]
    if not pinned:
        return
    pins = Pins(models_dir)
    console.print(f"Pinned in {models_dir / LOCK_FILE}, for this folder; in the catalogue they hold on every node:")
    for file in pinned:
        pin = pins.of(file)
        if pin is not None:
            shown = f"  {file.path}: {{size: {pin.size}, sha256: {pin.sha256}}}"
            console.print(shown, soft_wrap=True, highlight=False, markup=False)


def _print_files(needed: Mapping[str, Download], models_dir: Path) -> None:
    """What a prefetch would bring, under the licence of each download, and the sums."""
    files, pins = [], Pins(models_dir)
    for name, download in needed.items():
        _print_licence(name, download)
        files += download.model_files()
        for file in download.model_files():
            known = "; pinned" if pins.of(file) else "; no SHA-256 is published: --pin keeps the one it comes with"
            pinning = "" if file.sha256 else known
            console.print(f"  {file.path}: {_shown_size(file)}{pinning}", soft_wrap=True)
    lacking = missing(files, models_dir)
    console.print(
        f"{len(files)} files, {_sum(files)}; {len(lacking)} of them, {_sum(lacking)}, are not in {models_dir}."
    )


def _shown_size(file: ModelFile) -> str:
    return "size unknown" if file.size is None else decimal(file.size)


def _sum(files: Sequence[ModelFile]) -> str:
    unknown = sum(file.size is None for file in files)
    known = decimal(sum(file.size or 0 for file in files))
    return f"{known} and {unknown} of unknown size" if unknown else known


def _opened(url: str) -> ModelBucket:
    try:
        return ModelBucket.open(url)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@contextmanager
def _bars() -> Iterator[Report]:
    """A bar for each file that is reported."""
    with Progress(TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), console=console) as bars:
        bar_ids: dict[ModelFile, TaskID] = {}
        lock = Lock()

        def report(file: ModelFile, size: int) -> None:
            with lock:
                if file not in bar_ids:
                    bar_ids[file] = bars.add_task(file.path, total=file.size)
            bars.update(bar_ids[file], completed=size)

        yield report
