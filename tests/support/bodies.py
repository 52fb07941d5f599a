"""Requests with bodies, and what reads them, without a server."""

import asyncio
import encodings.aliases
from typing import Any
from unittest.mock import AsyncMock, MagicMock

from starlette.requests import Request
from starlette.types import ASGIApp, Message

from serve_app.api.app import build_http
from serve_app.api.body import JSON, BodyReader
from serve_app.api.body_budget import BodyBudget
from serve_app.api.loop_lag import LoopLag
from serve_app.errors import UnknownAppError
from serve_app.generation.settings import AdmissionSettings
from serve_app.settings import Settings

MAX_BYTES = 4 << 20
CODECS = sorted({*encodings.aliases.aliases.values(), "punycode", "undefined", "raw_unicode_escape", "idna", "utf-8\0"})


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def request_of(*messages: Message, announced: int | None = None, owner: str = "ann", kind: str = JSON) -> Request:
    """A request whose body comes in these messages, and then stalls."""
    waiting = list(messages)

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    headers = [(b"content-type", kind.encode())]
    if announced is not None:
        headers.append((b"content-length", str(announced).encode()))
    return Request({"type": "http", "method": "POST", "headers": headers, "state": {"owner": owner}}, receive)


def reader_of(budget: BodyBudget | None = None, max_bytes: int = MAX_BYTES, lag: LoopLag | None = None) -> BodyReader:
    return BodyReader(max_bytes, budget or BodyBudget(AdmissionSettings(), lambda _owner: None), lag or LoopLag(1, 1))


def app_without_apps() -> ASGIApp:
    """The HTTP application for every token, over a service that knows no app: 404 for valid requests for avatars."""
    service, access = MagicMock(), MagicMock()
    service.validator.task.side_effect = UnknownAppError("There is no such app.")
    service.close = AsyncMock()
    authenticated: Any = MagicMock(quota=None)
    authenticated.token.owner = "ann"
    access.authenticate = AsyncMock(return_value=authenticated)
    return build_http(service, access, Settings(), AsyncMock(return_value={}))
