"""What Serve's HTTP proxy must not hear from clients.

The proxy obeys some headers before the application sees the request: one ends it with a plain-text 408, one keeps work
going after its client has left, and some are decoded without care. Serve calls `middlewares` in each proxy, when the
environment variable PROXY_CALLBACK names it.
"""

import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
MIDDLEWARES = "serve_app.edge:middlewares"

# As the proxy reads them: lower case, with underscores.
REFUSED = frozenset(
    {b"x_request_timeout_seconds", b"x_request_disconnect_disabled", b"serve_multiplexed_model_id", b"x_session_id"}
)
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def middlewares() -> list[Middleware]:
    return [Middleware(DropServeHeaders)]


class DropServeHeaders:
    """Drops the headers that steer Serve, and a request id that is not plain: Serve then makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if _passes(name, value)]}
        await self._app(scope, receive, send)


def _passes(name: bytes, value: bytes) -> bool:
    name = name.lower().replace(b"-", b"_")
    if name == b"x_request_id":
        return REQUEST_ID.fullmatch(value) is not None
    return name not in REFUSED
