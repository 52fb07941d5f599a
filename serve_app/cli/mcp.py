"""`face-avatar mcp`: the service as tools of an agent, on stdin and stdout."""

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.options import DEFAULT_URL, TokenFileOption, TokenOption, UrlOption, read_token
from serve_app.client import AsyncFaceAvatarClient


def mcp(
    folder: Annotated[
        list[Path] | None,
        typer.Option(help="A folder whose photos may be used; may be repeated.", exists=True, file_okay=False),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Serve a running service to an agent by the Model Context Protocol, on stdin and stdout."""
    try:
        from serve_app.api.mcp.tools import PhotoFolders, mcp_server
    except ImportError as error:
        raise typer.BadParameter("install it first: pip install 'face-avatar[mcp]'") from error
    secret = read_token(token, token_file)

    async def run() -> None:
        async with AsyncFaceAvatarClient(url, secret) as client:
            server = mcp_server(lambda _ctx: nullcontext(client), PhotoFolders(folder or []))
            await server.run_stdio_async()

    asyncio.run(run())
