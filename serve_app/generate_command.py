"""`face-avatar generate`: its options, and what of them goes into the request."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from deployments.types import OutputFormat
from serve_app.client import AvatarParameters, FaceAvatarClient
from serve_app.client_options import AVATARS, ConsentOption, OutputOption, TokenFileOption, TokenOption, UrlOption
from serve_app.generate import DEFAULT_URL, Order, fulfil, is_url, read_token
from serve_app.schemas.requests import Priority

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


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
