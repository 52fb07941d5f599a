"""ASGI middleware in Serve's HTTP proxy: filters request headers and replaces the proxy's own error answers.

The proxy obeys some headers before the application sees the request: one ends it with a plain-text 408, one keeps work
running after the client has disconnected, and some are decoded without validation. Where the application cannot answer,
because its replica died or the path is the proxy's own, the proxy answers in plain text. Serve calls `middlewares` in
each proxy if the environment variable PROXY_CALLBACK names it.
"""

import re

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.security_headers import ALWAYS, JSON, JSON_ONLY, add_headers
from serve_app.schemas.responses import Envelope

PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
MIDDLEWARES = "serve_app.edge:middlewares"

# In the proxy's notation: lower case, with underscores.
REFUSED = frozenset(
    {b"x_request_timeout_seconds", b"x_request_disconnect_disabled", b"serve_multiplexed_model_id", b"x_session_id"}
)
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

# The errors of the proxy itself, by status; any other status is an internal error.
PROXY_ERRORS = {404: "Not Found", 408: "Timeout", 429: "Rate Limit", 503: "Overloaded"}
RETRY_AFTER_S = 5


def middlewares() -> list[Middleware]:
    return [Middleware(Edge)]


class Edge:
    """Drops headers that control Serve, and invalid request ids, which Serve then replaces.

    Errors of the proxy itself become envelopes; those of the application are JSON already.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        inner = {**scope, "headers": [header for header in scope["headers"] if _passes(*header)]}
        started = replaced = False

        async def send_enveloped(message: Message) -> None:
            nonlocal started, replaced
            if message["type"] == "http.response.start":
                started = True
                add_headers(message, ALWAYS)
                if _is_proxy_error(message):
                    replaced = True
                    request_id = Headers(raw=message["headers"]).get("x-request-id")
                    await proxy_error(message["status"], request_id)(scope, receive, send)
            if not replaced:
                await send(message)

        try:
            await self._app(inner, receive, send_enveloped)
        finally:
            if not started:  # the replica died during the request; a retry reaches another one
                await proxy_error(503, Headers(scope=inner).get("x-request-id"))(scope, receive, send)


def proxy_error(status: int, request_id: str | None) -> JSONResponse:
    """The envelope that replaces an error of the proxy."""
    name = PROXY_ERRORS.get(status, "Internal Error")
    text = "The service could not answer this request."
    envelope = Envelope(error=name, error_data={"message": text}, status="FAILED")
    answer = JSONResponse(envelope.model_dump(), 504 if status == 408 else status, ALWAYS | JSON_ONLY)
    if request_id:
        answer.headers["X-Request-Id"] = request_id
    if status in (429, 503):
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer


def _is_proxy_error(message: Message) -> bool:
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return bool(message["status"] >= 400) and not kind.startswith(JSON)


def _passes(name: bytes, value: bytes) -> bool:
    name = name.lower().replace(b"-", b"_")
    if name == b"x_request_id":
        return REQUEST_ID.fullmatch(value) is not None
    return name not in REFUSED
