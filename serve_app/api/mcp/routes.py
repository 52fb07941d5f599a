"""`POST /mcp`: the tools of agents, where the package for that is installed."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from fastapi import FastAPI, Request, Response

from serve_app.api.body import BodyReader
from serve_app.api.settings import IngressSettings
from serve_app.errors import NotFoundError


def add_mcp_route(
    api: FastAPI, settings: IngressSettings, bodies: BodyReader, *, token: Any
) -> AbstractAsyncContextManager[None]:
    """Add the route; `token` is a dependency that accepts any token. What it returns must be entered while `api` runs.

    Its own requests to `api` need the rights of what they do.
    """
    try:
        from serve_app.api.mcp.endpoint import McpEndpoint
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        endpoint = None
    else:
        endpoint = McpEndpoint(api, settings, bodies)

    @api.post("/mcp", dependencies=[token], include_in_schema=False)
    async def mcp(request: Request) -> Response:
        """The Model Context Protocol over streamable HTTP."""
        if endpoint is None:
            raise NotFoundError("There are no tools for agents here: pip install 'face-avatar[mcp]' on its nodes.")
        return endpoint.answer(request)

    return nullcontext() if endpoint is None else endpoint.running()
