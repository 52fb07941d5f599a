"""Request metrics for Prometheus, exported through Ray, which prefixes the names with `ray_`.

Labels have few values: route patterns and stable error names, never paths, tasks or tokens. Updating a metric takes
microseconds and no I/O: Ray sends them every 10 s.
"""

import asyncio
import time

from ray.serve import metrics
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.schemas.errors import INTERNAL_ERROR

REQUEST_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300]

OK = "OK"
LEFT = "Client Left"  # disconnected before the answer
OTHER_ROUTE = "other"  # pages, and paths that do not exist


class RequestMetrics:
    """ASGI middleware that counts requests by route and outcome, and measures their duration."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        labels = ("route", "outcome")
        self._requests = metrics.Counter(
            "avatar_requests_total", "Requests answered; outcome: OK or the error.", labels
        )
        self._seconds = metrics.Histogram("avatar_request_seconds", "From head to last byte.", REQUEST_S, ("route",))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count an HTTP request when it ends, or its client leaves; other scopes pass through uncounted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, outcome = time.perf_counter(), ""

        async def send_counted(message: Message) -> None:
            nonlocal outcome
            if message["type"] == "http.response.start":
                outcome = outcome_of(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except asyncio.CancelledError:
            outcome = outcome or LEFT
            raise
        finally:
            route = route_of(scope)
            # No outcome means an unhandled exception, which an outer layer turns into an answer.
            self._requests.inc(1, {"route": route, "outcome": outcome or INTERNAL_ERROR.name})
            self._seconds.observe(time.perf_counter() - started, {"route": route})


def route_of(scope: Scope) -> str:
    """The pattern of the route that handled a request."""
    pattern = getattr(scope.get("route"), "path", None)
    return pattern if isinstance(pattern, str) else OTHER_ROUTE


def outcome_of(scope: Scope, status: int) -> str:
    """OK, or the name of the error, which the application stores in the request's state."""
    error_name = scope.get("state", {}).get("outcome")
    if isinstance(error_name, str):
        return error_name
    return OK if status < 400 else str(status)
