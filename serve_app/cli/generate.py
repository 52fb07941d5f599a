"""`face-avatar generate`: queues a photo, waits for its avatars, and writes them to files."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from deployments.types import OutputFormat
from serve_app.catalog.apps import Quality
from serve_app.cli.console import console, errors
from serve_app.cli.folder import FolderRequest, run_folder
from serve_app.cli.options import (
    AVATARS,
    DEFAULT_URL,
    ConsentOption,
    OutputOption,
    TokenFileOption,
    TokenOption,
    UrlOption,
    read_token,
)
from serve_app.cli.results import file_stem, save_avatars, summary
from serve_app.cli.task_view import TaskView
from serve_app.client import GRACE_S, WAIT_S, AvatarParameters, ClientError, FaceAvatarClient, Photo, Task
from serve_app.client.addresses import is_url
from serve_app.photos.source import MAX_PHOTOS
from serve_app.schemas.requests import Priority


def generate(
    context: typer.Context,
    photo: Annotated[
        list[str] | None,
        typer.Argument(
            help="A photo of a face, or up to four of one person: files, or http(s) URLs. Or a folder: avatars of each "
            "photo in it, as a batch; the same command goes on where it was left."
        ),
    ] = None,
    output: OutputOption = AVATARS,
    # Options named like a field of the request set that field; `requested` takes them from the context.
    app_id: Annotated[str | None, typer.Option("--app", help="Which app draws.")] = None,
    fallback_app_id: Annotated[
        str | None, typer.Option("--fallback-app", help="Draws where that one would be late; none: no other app.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Replaces the app's prompt whole.")] = None,
    style: Annotated[str | None, typer.Option(help="One of the styles of the app.")] = None,
    gender: Annotated[str | None, typer.Option(help="male, female, or another word for the prompt.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What shall not be drawn.")] = None,
    batch: Annotated[int | None, typer.Option(help="How many avatars.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    quality: Annotated[Quality | None, typer.Option(help="fast: few steps, where the app has them.")] = None,
    num_inference_steps: Annotated[int | None, typer.Option("--steps", help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option("--guidance", help="Guidance scale.")] = None,
    ip_adapter_scale: Annotated[
        float | None, typer.Option("--likeness", help="0 to 1: how much the face counts beside the prompt.")
    ] = None,
    min_similarity: Annotated[
        float | None, typer.Option(help="0 to 1: an avatar less like the photo is drawn again, twice at most.")
    ] = None,
    remove_background: Annotated[bool, typer.Option("--remove-background", help="Transparent background.")] = False,
    bg_color: Annotated[str | None, typer.Option(help="#RGB or #RRGGBB: fills the background.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same avatars.")] = None,
    output_format: Annotated[OutputFormat | None, typer.Option("--format", help="The format of the files.")] = None,
    ref_id: Annotated[str | None, typer.Option(help="A reference of your own, echoed in the envelope.")] = None,
    deadline_s: Annotated[float | None, typer.Option("--deadline", help="Seconds after which it is given up.")] = None,
    start_deadline_s: Annotated[
        float | None, typer.Option("--start-deadline", help="Seconds after which it is given up unless it has begun.")
    ] = None,
    priority: Annotated[Priority | None, typer.Option(help="low: where it is queued, others come first.")] = None,
    webhook_url: Annotated[str | None, typer.Option(help="Gets the final envelope, as a signed POST.")] = None,
    consent: ConsentOption = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Queue it, say how to fetch it, and leave.")] = False,
    receipts: Annotated[
        bool, typer.Option("--receipts", help="Write what `replay` needs beside each avatar, as JSON.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="Fetch the avatars of this task instead of new ones.")] = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the envelope.")] = False,
) -> None:
    """Have a running service make avatars of a photo, or of several of one person, and write them to a folder."""
    parameters = requested(context.params)
    if bool(photo) == (task is not None):
        raise typer.BadParameter("give either a photo or --task")
    if task is not None and (no_wait or parameters):
        raise typer.BadParameter("--task fetches what was made: nothing can be asked of it")
    folder = folder_named(photo or [], output)
    if folder is not None:
        if as_json:
            raise typer.BadParameter("--json prints the envelope of one request: a folder is many")
        folder_request = FolderRequest(folder, output, parameters, receipts, not no_wait)
        with FaceAvatarClient(url, read_token(token, token_file)) as client:
            generate_folder(client, folder_request)
        return
    photos = photos_named(photo or [])
    request = GenerateRequest(photos, task, parameters, not no_wait, receipts, output, url)
    with FaceAvatarClient(url, read_token(token, token_file)) as client:
        run_request(client, request, console, errors, as_json=as_json)


def folder_named(arguments: Sequence[str], output: Path) -> Path | None:
    """The folder that the arguments name; None where they name photos. Raises: BadParameter."""
    folders = [Path(argument) for argument in arguments if not is_url(argument) and Path(argument).is_dir()]
    if not folders:
        return None
    if len(arguments) > 1:
        raise typer.BadParameter("give one folder, or photos of one person")
    if folders[0].resolve() == output.resolve():
        raise typer.BadParameter("the avatars need another folder than the photos: -o")
    return folders[0]


def generate_folder(client: FaceAvatarClient, request: FolderRequest) -> None:
    """Raises: ClientError; InterruptedWaitError after ctrl-C."""
    try:
        run_folder(client, request, console, errors)
    except KeyboardInterrupt:
        message = "The batch goes on. The same command sends what it lacks, and fetches its avatars."
        raise InterruptedWaitError(message) from None


def photos_named(arguments: Sequence[str]) -> list[Photo]:
    """The photos of one person that the arguments of a command name. Raises: BadParameter where there are too many."""
    if len(arguments) > MAX_PHOTOS:
        raise typer.BadParameter(f"{len(arguments)} photos: at most {MAX_PHOTOS}, all of one person")
    return [photo if is_url(photo) else Path(photo) for photo in arguments]


def requested(options: Mapping[str, Any]) -> AvatarParameters:
    """The request fields among the options. Those not given take the service's defaults."""
    fields = ((name, options.get(name)) for name in AvatarParameters.__annotations__)
    # A flag that is off is left out; the seed 0 is not.
    return cast(AvatarParameters, {name: value for name, value in fields if value is not None and value is not False})


class InterruptedWaitError(ClientError):
    """The user stopped waiting for a task, which continues; the message says how to fetch its avatars."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Photos of a person to generate avatars of, or the id of a task whose avatars to fetch: one of the two.

    Without `waits` the task is only queued, and its id printed.
    """

    photos: Sequence[Photo]
    task_id: str | None
    parameters: AvatarParameters
    waits: bool
    receipts: bool
    output: Path
    url: str


def run_request(
    client: FaceAvatarClient, request: GenerateRequest, out: Console, err: Console, *, as_json: bool
) -> None:
    """Run a request, write its avatars and print their paths; `as_json` prints the envelope, the rest on stderr.

    Raises: ClientError.
    """
    messages = err if as_json else out
    task = _run_task(client, request, messages, err)
    if as_json:
        print(json.dumps(task.envelope, indent=2))
    if not request.waits and not task.finished:
        messages.print(f"Fetch its avatars later: {_fetch_command(request, task.task_id)}", markup=False)
        return
    task.require_success()
    with err.status("fetching the avatars"):
        stem = file_stem(next(iter(request.photos), None), task)
        saved = save_avatars(client, task, request.output, stem, receipts=request.receipts)
    for line in summary(task, saved):
        messages.print(line, markup=False)


def _run_task(client: FaceAvatarClient, request: GenerateRequest, messages: Console, err: Console) -> Task:
    """The finished task of a request, successful or not; without `waits`, its current state.

    Tasks are always queued: a queued task has an id from the start, so that a later run can fetch its avatars.
    """
    if not request.photos:
        return _wait(client, request, request.task_id or "", err)
    # Print nothing inside a status: on a terminal it redirects stdout to stderr.
    with err.status("sending the photo" if len(request.photos) == 1 else "sending the photos"):
        task = client.avatars.submit(request.photos, **request.parameters)
    messages.print(f"task {task.task_id}", markup=False)
    return _wait(client, request, task.task_id, err) if request.waits else task


def _wait(client: FaceAvatarClient, request: GenerateRequest, task_id: str, err: Console) -> Task:
    timeout_s = (request.parameters.get("deadline_s") or WAIT_S) + GRACE_S
    try:
        with TaskView(err) as view:
            return client.avatars.wait(task_id, timeout_s=timeout_s, progress=view.show)
    except KeyboardInterrupt:
        message = f"The task goes on. Fetch its avatars later: {_fetch_command(request, task_id)}"
        raise InterruptedWaitError(message) from None


def _fetch_command(request: GenerateRequest, task_id: str) -> str:
    """The command that fetches the avatars of a request later."""
    command = ["face-avatar", "generate", "--task", task_id, "-o", str(request.output)]
    command += ["--receipts"] if request.receipts else []
    return shlex.join(command if request.url == DEFAULT_URL else [*command, "--url", request.url])
