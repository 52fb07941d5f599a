"""The tools that agents get by the Model Context Protocol, over the client of the service.

Answers are short: thumbnails as pictures, and links to the images. Photos are URLs or, where agent and server are on
one machine, files in folders that whoever starts the server allows.
"""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, Protocol, TypeVar

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

import serve_app
from serve_app.client import AsyncFaceAvatarClient, ClientError, Photo, Task
from serve_app.client.addresses import is_url

INSTRUCTIONS = (
    "Makes avatars of the face on a photo. Inspect a photo first where it is not known to show one clear face. "
    "Ask for consent before using a photo of somebody else."
)
READ_ONLY = ToolAnnotations(read_only_hint=True)

P = ParamSpec("P")
T = TypeVar("T")

ClientOf = Callable[[Context], AbstractAsyncContextManager[AsyncFaceAvatarClient]]
"""The client of the token with which a tool is called."""

PhotoArgument = Annotated[str, Field(description="An http(s) URL, or the path of a file in an allowed folder.")]


class PhotoPolicy(Protocol):
    """Which photos agents may name."""

    def photo(self, named: str) -> Photo:
        """What an agent named. Raises: ToolError where it may not."""


class PhotoUrls:
    """Of an agent elsewhere: no files of this machine."""

    def photo(self, named: str) -> Photo:
        """A URL. Raises: ToolError."""
        if not is_url(named):
            raise ToolError(f"{named} is not an http(s) URL.")
        return named


class PhotoFolders:
    """The folders whose files may be sent to the service, by where symbolic links lead."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [folder.resolve() for folder in folders]

    def photo(self, named: str) -> Photo:
        """What an agent named, if it is a URL or lies in one of the folders. Raises: ToolError."""
        if is_url(named):
            return named
        path = Path(named).expanduser().resolve()
        if not any(path.is_relative_to(folder) for folder in self._folders):
            allowed = ", ".join(map(str, self._folders)) or "none: name some with --folder"
            raise ToolError(f"{named} is neither a URL nor in an allowed folder ({allowed}).")
        if not path.is_file():
            raise ToolError(f"There is no file {named}.")
        return path


def told(tool: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The tool, with errors of the client as what the agent is told."""

    @wraps(tool)
    async def telling(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await tool(*args, **kwargs)
        except ClientError as error:
            raise ToolError(str(error)) from error

    return telling


def mcp_server(client_of: ClientOf, photos: PhotoPolicy) -> MCPServer:
    """A server with the tools, which ask the service through the client of their caller."""
    server = MCPServer("face-avatar", version=serve_app.__version__, instructions=INSTRUCTIONS, log_level="WARNING")

    @server.tool(annotations=READ_ONLY, structured_output=False)
    @told
    async def inspect_photo(ctx: Context, photo: PhotoArgument) -> str:
        """Say which faces a photo shows, and whether avatars can be made of it. Makes nothing."""
        async with client_of(ctx) as client:
            found = await client.faces.inspect(photos.photo(photo))
        verdict = "It can be used." if found.accepted else f"It cannot be used: {found.message}"
        faces = f"{len(found.faces)} face(s) on {found.width}x{found.height} pixels."
        return " ".join([verdict, faces, *(warning.message for warning in found.warnings)])

    @server.tool(structured_output=False)
    @told
    async def make_avatars(
        ctx: Context,
        photo: PhotoArgument,
        more_photos: Annotated[
            list[str] | None,
            Field(max_length=3, description="Up to three more of the same person: the face is the mean of all."),
        ] = None,
        prompt: Annotated[str | None, Field(description="Replaces the default prompt whole.")] = None,
        style: Annotated[str | None, Field(description="One of the app's styles in list_apps.")] = None,
        gender: Annotated[str | None, Field(description="male, female, or a word for the default prompt.")] = None,
        quality: Annotated[
            Literal["standard", "fast"] | None, Field(description="One of the app's qualities in list_apps.")
        ] = None,
        count: Annotated[int, Field(ge=1, le=8, description="How many avatars, each different.")] = 1,
        width: Annotated[int | None, Field(ge=256, le=1536, description="Pixels.")] = None,
        height: Annotated[int | None, Field(ge=256, le=1536, description="Pixels.")] = None,
        remove_background: Annotated[bool, Field(description="Cut the figure out.")] = False,
        seed: Annotated[int | None, Field(ge=0, description="The same seed gives the same avatars.")] = None,
        app_id: Annotated[str | None, Field(description="One of list_apps.")] = None,
    ) -> list[str | Image]:
        """Make avatars of the face on a photo: thumbnails, and links that work for a day."""
        named = [photos.photo(each) for each in (photo, *(more_photos or ()))]
        async with client_of(ctx) as client:
            queued = await client.avatars.submit(
                named, prompt=prompt, style=style, gender=gender, quality=quality, batch=count, width=width,
                height=height, remove_background=remove_background, seed=seed, app_id=app_id,
            )  # fmt: skip
            task = queued
            async for state in client.avatars.events(queued):
                task, progress = state, state.progress
                if progress is not None and progress.steps:
                    await ctx.report_progress(progress.step or 0, progress.steps, state.status)
            return await shown(client, task.require_success())

    @server.tool(annotations=READ_ONLY, structured_output=False)
    @told
    async def get_task(ctx: Context, task_id: str) -> list[str | Image]:
        """The state of a task that was started before, with its avatars once it is done."""
        async with client_of(ctx) as client:
            task = await client.avatars.get(task_id)
            if task.status == "SUCCESS":
                return await shown(client, task)
        return [f"Task {task.task_id} is {task.status}. {task.error_data.get('message', '')}".rstrip()]

    @server.tool(annotations=READ_ONLY, structured_output=False)
    @told
    async def list_apps(ctx: Context) -> str:
        """The apps that draw: how each looks, and the licence of its models."""
        async with client_of(ctx) as client:
            apps = await client.apps.list()
        return "\n".join(
            f"{app.app_id}: {app.title}. {app.description} Styles: {', '.join(app.styles)} "
            f"Qualities: {', '.join(app.qualities)} Licence: {app.licence}"
            for app in apps
        )

    return server


async def shown(client: AsyncFaceAvatarClient, task: Task) -> list[str | Image]:
    """A line and a thumbnail for each image of a task that succeeded."""
    parts: list[str | Image] = [f"Task {task.task_id}:", *task.warning_texts()]
    for number, image in enumerate(task.images, 1):
        if image.url is None or image.thumbnail_url is None:
            parts.append(f"Avatar {number} was withheld.")
            continue
        similarity = "" if image.face_similarity is None else f", likeness {image.face_similarity:.2f}"
        parts.append(f"Avatar {number}: {image.url} (seed {image.seed}{similarity})")
        parts.append(Image(data=await client.avatars.download(image.thumbnail_url), format="webp"))
    return parts
