"""`face-avatar generate`: queue a photo, wait for its avatars, and write them."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from deployments.types import OutputFormat
from serve_app.cli.console import console, errors
from serve_app.cli.options import (
    AVATARS,
    DEFAULT_URL,
    ConsentOption,
    OutputOption,
    TokenFileOption,
    TokenOption,
    UrlOption,
    is_url,
    read_token,
)
from serve_app.cli.results import file_stem, save_avatars, summary
from serve_app.cli.task_view import TaskView
from serve_app.client import GRACE_S, WAIT_S, AvatarParameters, ClientError, FaceAvatarClient, Photo, Task
from serve_app.schemas.requests import Priority


def generate(
    context: typer.Context,
    photo: Annotated[str | None, typer.Argument(help="A photo of a face: a file, or an http(s) URL.")] = None,
    output: OutputOption = AVATARS,
    # An option that has the name of a field of the request is that field; `requested` takes it from the context.
    app_id: Annotated[str | None, typer.Option("--app", help="Which app draws.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Replaces the app's prompt whole.")] = None,
    gender: Annotated[str | None, typer.Option(help="male, female, or another word for the prompt.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What shall not be drawn.")] = None,
    batch: Annotated[int | None, typer.Option(help="How many avatars.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
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
    """Have a running service make avatars of a photo, and write them to a folder."""
    parameters = requested(context.params)
    if (photo is None) == (task is None):
        raise typer.BadParameter("give either a photo or --task")
    if task is not None and (no_wait or parameters):
        raise typer.BadParameter("--task fetches what was made: nothing can be asked of it")
    source = photo if photo is None or is_url(photo) else Path(photo)
    order = Order(source, task, parameters, not no_wait, receipts, output, url)
    with FaceAvatarClient(url, read_token(token, token_file)) as client:
        fulfil(client, order, console, errors, as_json=as_json)


def requested(options: Mapping[str, Any]) -> AvatarParameters:
    """The fields of a request among the options. What was not given is the service's to choose."""
    fields = ((name, options[name]) for name in AvatarParameters.__annotations__)
    # A flag that is off is not asked for; the seed 0 is.
    return cast(AvatarParameters, {name: value for name, value in fields if value is not None and value is not False})


class InterruptedWaitError(ClientError):
    """Somebody stopped waiting for a task, which goes on; the message says how to fetch its avatars."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made, or the id of a task whose avatars are to be fetched; exactly one of the two.

    Without `waits` a task is queued and named, and that is all.
    """

    photo: Photo | None
    task_id: str | None
    parameters: AvatarParameters
    waits: bool
    receipts: bool
    output: Path
    url: str


def fulfil(client: FaceAvatarClient, order: Order, out: Console, err: Console, *, as_json: bool) -> None:
    """Have an order made, write its avatars and tell of them; as JSON: the envelope, and all else on stderr.

    Raises: ClientError.
    """
    told = err if as_json else out
    task = _make(client, order, told, err)
    if as_json:
        print(json.dumps(task.envelope, indent=2))
    if not order.waits and not task.finished:
        told.print(f"Fetch its avatars later: {_again(order, task.task_id)}", markup=False)
        return
    task.require_success()
    with err.status("fetching the avatars"):
        saved = save_avatars(client, task, order.output, file_stem(order.photo, task), receipts=order.receipts)
    for line in summary(task, saved):
        told.print(line, markup=False)


def _make(client: FaceAvatarClient, order: Order, told: Console, err: Console) -> Task:
    """The finished task of an order, whatever its end; where nobody waits, as it stands.

    All tasks are queued: one that is has an id from the start, so that it can be watched, and fetched by another run.
    """
    if order.photo is None:
        return _wait(client, order, order.task_id or "", err)
    # Nothing is printed while a status turns: on a terminal it would take stdout along to stderr.
    with err.status("sending the photo"):
        task = client.avatars.submit(order.photo, **order.parameters)
    told.print(f"task {task.task_id}", markup=False)
    return _wait(client, order, task.task_id, err) if order.waits else task


def _wait(client: FaceAvatarClient, order: Order, task_id: str, err: Console) -> Task:
    timeout_s = (order.parameters.get("deadline_s") or WAIT_S) + GRACE_S
    try:
        with TaskView(err) as view:
            return client.avatars.wait(task_id, timeout_s=timeout_s, progress=view.show)
    except KeyboardInterrupt:
        message = f"The task goes on. Fetch its avatars later: {_again(order, task_id)}"
        raise InterruptedWaitError(message) from None


def _again(order: Order, task_id: str) -> str:
    """The command that fetches the avatars of an order."""
    command = ["face-avatar", "generate", "--task", task_id, "-o", str(order.output)]
    command += ["--receipts"] if order.receipts else []
    return shlex.join(command if order.url == DEFAULT_URL else [*command, "--url", order.url])
