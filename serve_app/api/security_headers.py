"""The headers that every answer has, and those that let pages of other origins read answers.

Set last, around everything: what an answer says of itself stays.
"""

from pydantic import Field, field_validator
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.config import Config

ANSWER_HEADERS = "answer_headers"  # of one answer: what its route left in the request's state
HSTS = "max-age=31536000"
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
BARE = {  # of what is no page: it loads nothing, and nothing frames it
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
    """Pages of which origins may use the service from a browser: `https://app.example.org`; `*`: of any.

    Cookies never count, here or elsewhere: a page has to have a token.
    """

    origins: tuple[str, ...] = ()
    max_age_s: int = Field(600, ge=0)  # so long a browser does not ask again whether it may

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, _, rest = origin.partition("://")
            if origin != "*" and (scheme not in ("http", "https") or not rest or "/" in rest):
                raise ValueError(f"{origin!r} is no origin such as https://app.example.org")
        return origins


class AnswerHeaders:
    """An ASGI middleware. `https`: whether the service is reached by https alone."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._always = ALWAYS | ({"Strict-Transport-Security": HSTS} if https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                bare = BARE if headers.get("content-type", "").startswith(JSON) else {}
                for name, value in {**self._always, **bare, **scope.get("state", {}).get(ANSWER_HEADERS, {})}.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def with_headers(app: ASGIApp, settings: CorsSettings, public_url: str | None) -> ASGIApp:
    """The application, with the headers around it that these settings ask for."""
    https = public_url is not None and public_url.startswith("https://")
    around: ASGIApp = AnswerHeaders(app, https=https)
    if settings.origins:
        around = CORSMiddleware(
            around,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-Id"),
            expose_headers=EXPOSED,
            max_age=settings.max_age_s,
        )
    return around
