"""Security headers of every answer, and CORS headers for pages of other origins.

The outermost middleware: headers that an answer already has are kept.
"""

from collections.abc import Mapping

from pydantic import Field, field_validator
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.config import Config

ANSWER_HEADERS = "answer_headers"  # in the request's state: extra headers of its answer
HSTS = "max-age=31536000"
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
JSON_ONLY = {  # answers that are not pages load nothing and cannot be framed
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
JSON = "application/json"
EXPOSED = (
    "X-Request-Id",
    "Retry-After",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "RateLimit-Policy",
)


class CorsSettings(Config):
    """The origins whose pages may call the service from a browser, such as `https://app.example.org`; `*`: any.

    Cookies are never used for authentication: a page needs a token.
    """

    origins: tuple[str, ...] = ()
    max_age_s: int = Field(600, ge=0)  # how long browsers cache a preflight answer

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, _, rest = origin.partition("://")
            if origin != "*" and (scheme not in ("http", "https") or not rest or "/" in rest):
                raise ValueError(f"{origin!r} is no origin such as https://app.example.org")
        return origins


class AnswerHeaders:
    """ASGI middleware that adds the headers. `https`: the service is reached by https only."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._always = ALWAYS | ({"Strict-Transport-Security": HSTS} if https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to an HTTP answer as it starts, with those in the request's state (ANSWER_HEADERS)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_headers(message, self._always | scope.get("state", {}).get(ANSWER_HEADERS, {}))
            await send(message)

        await self._app(scope, receive, send_with_headers)


def add_headers(message: Message, headers: Mapping[str, str]) -> None:
    """Adds these headers, and JSON_ONLY where it applies, to the start of an answer; existing headers are kept."""
    present = MutableHeaders(scope=message)
    json_only = JSON_ONLY if present.get("content-type", "").startswith(JSON) else {}
    for name, value in {**json_only, **headers}.items():
        present.setdefault(name, value)


def with_headers(app: ASGIApp, settings: CorsSettings, public_url: str | None) -> ASGIApp:
    """The application wrapped in the headers of these settings."""
    https = public_url is not None and public_url.startswith("https://")
    wrapped: ASGIApp = AnswerHeaders(app, https=https)
    if settings.origins:
        wrapped = CORSMiddleware(
            wrapped,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-Id"),
            expose_headers=EXPOSED,
            max_age=settings.max_age_s,
        )
    return wrapped
