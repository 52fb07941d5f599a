"""The tools of agents over streamable HTTP, without sessions: any replica answers any request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from mcp.server.mcpserver import Context
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.body import BodyReader
from serve_app.api.dependencies import base_url
from serve_app.api.mcp.in_process import AppTransport
from serve_app.api.mcp.tools import PhotoUrls, mcp_server
from serve_app.api.settings import IngressSettings
from serve_app.client import AsyncFaceAvatarClient
from serve_app.client.addresses import origin
from serve_app.errors import ForbiddenError


class McpEndpoint:
    """Answers requests with tools that call `app`, in this process, with the token of their request."""

    def __init__(self, app: ASGIApp, settings: IngressSettings, bodies: BodyReader) -> None:
        self._app = app
        self._settings = settings
        self._bodies = bodies
        server = mcp_server(self._client_of, PhotoUrls())
        server.streamable_http_app(
            stateless_http=True,
            max_request_body_size=settings.max_body_bytes,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # `check_source` does
        )
        self._sessions = server.session_manager
        self._outside = httpx.AsyncHTTPTransport()  # to an object store that has the thumbnails

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What must be entered once, while the application runs."""
        async with self._sessions.run(), self._outside:
            yield

    def answer(self, request: Request) -> Response:
        """The answer to a request whose token is known. Raises: ForbiddenError."""
        check_source(request, self._settings)
        return McpAnswer(self._sessions.handle_request, self._bodies, request)

    @asynccontextmanager
    async def _client_of(self, ctx: Context) -> AsyncIterator[AsyncFaceAvatarClient]:
        request = ctx.request_context.request
        assert isinstance(request, Request)  # of the transport over HTTP
        address = base_url(request, self._settings)
        secret = request.headers["authorization"].partition(" ")[2].strip()
        transport = AppTransport(self._app, address, self._outside)
        async with AsyncFaceAvatarClient(address, secret, transport=transport) as client:
            yield client


class McpAnswer(Response):
    """Reads the body within the limits of all bodies, and leaves the rest to the protocol's own application."""

    def __init__(self, protocol: ASGIApp, bodies: BodyReader, request: Request) -> None:
        super().__init__()
        self._protocol = protocol
        self._bodies = bodies
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: what `BodyReader.whole` raises."""
        async with self._bodies.whole(self._request) as body:
            messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

            async def received() -> Message:
                return messages.pop() if messages else await receive()

            await self._protocol(scope, received, send)


def check_source(request: Request, settings: IngressSettings) -> None:
    """Refuse other names than that of `public_url`, and pages of other sites: the protocol asks servers for that.

    Raises: ForbiddenError.
    """
    own = httpx.URL(base_url(request, settings))
    host, page = request.headers.get("host", ""), request.headers.get("origin")
    if host.lower() != own.netloc.decode():
        raise ForbiddenError(f"This service is {origin(own)}; the request names {host[:200]}.")
    if page is not None and page not in (origin(own), *settings.cors.origins):
        raise ForbiddenError(f"Pages of {page[:200]} may not call this: `cors.origins` has those that may.")
