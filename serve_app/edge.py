"""ASGI middleware in Serve's HTTP proxy: filters request headers and replaces the proxy's own error answers.

The proxy obeys some headers before the application sees the request: one ends it with a plain-text 408, one keeps work
running after the client has disconnected, and some are decoded without validation. Where the application cannot answer,
because its replica died or the path is the proxy's own, the proxy answers in plain text. Serve calls `middlewares` in
each proxy if the environment variable PROXY_CALLBACK names it.
"""

import re

from ray.serve._private import constants as serve_constants
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.proxy_errors import proxy_error
from serve_app.api.security_headers import ALWAYS, JSON, add_headers
from serve_app.http_protocol import UnsupportedServerError, install

PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
MIDDLEWARES = "serve_app.edge:middlewares"

# In the proxy's notation: lower case, with underscores.
REFUSED = frozenset(
    {b"x_request_timeout_seconds", b"x_request_disconnect_disabled", b"serve_multiplexed_model_id", b"x_session_id"}
)
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def middlewares() -> list[Middleware]:
    """Raises: UnsupportedServerError, with which the proxy does not start."""
    install()
    return [Middleware(Edge)]


def check_supported() -> None:
    """Raises: UnsupportedServerError where Serve's proxies would serve without `middlewares` or their limits."""
    if not hasattr(serve_constants, PROXY_CALLBACK):
        raise UnsupportedServerError(
            f"The installed Ray does not know {PROXY_CALLBACK}: requests would have no limits."
        )
    install()


class Edge:
    """Drops headers that control Serve, and invalid request ids, which Serve then replaces.

    Errors of the proxy itself become envelopes; those of the application are JSON already.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on without the headers that control Serve, and replace answers that the proxy itself gives.

        An answer that never starts becomes a 503: the replica died.
        """
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
                    status = 504 if message["status"] == 408 else message["status"]  # Serve's own time is over
                    await proxy_error(status, request_id, path=scope["path"])(scope, receive, send)
            if not replaced:
                await send(message)

        try:
            await self._app(inner, receive, send_enveloped)
        finally:
            if not started:  # the replica died during the request; a retry reaches another one
                request_id = Headers(scope=inner).get("x-request-id")
                await proxy_error(503, request_id, path=scope["path"])(scope, receive, send)


def _is_proxy_error(message: Message) -> bool:
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return bool(message["status"] >= 400) and not kind.startswith(JSON)


def _passes(name: bytes, value: bytes) -> bool:
    name = name.lower().replace(b"-", b"_")
    if name == b"x_request_id":
        return REQUEST_ID.fullmatch(value) is not None
    return name not in REFUSED
