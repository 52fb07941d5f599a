"""Whose word is taken for the address and the scheme of a client."""

from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from starlette.testclient import TestClient

from serve_app.api.app import build_http
from serve_app.errors import UnauthorizedError
from serve_app.settings import Settings

FORWARDED = {"X-Forwarded-For": "198.51.100.7, 203.0.113.9, 10.1.2.3", "X-Forwarded-Proto": "https"}


@pytest.mark.parametrize(
    ("trusted", "peer", "address", "scheme"),
    [
        ([], "10.0.0.5", None, "http"),
        (["10.0.0.0/8"], "10.0.0.5", "203.0.113.9", "https"),  # the last one that no trusted proxy is
        (["10.0.0.0/8"], "192.0.2.1", "192.0.2.1", "http"),  # who is not trusted may say anything
        (["2001:db8::/32"], "2001:db8::5", "10.1.2.3", "https"),
        (["10.0.0.0/8"], "::ffff:10.0.0.5", "203.0.113.9", "https"),  # as a socket for IPv4 and IPv6 shows it
    ],
)
def test_only_a_trusted_proxy_says_who_asks(trusted: list[str], peer: str, address: str | None, scheme: str) -> None:
    access: Any = MagicMock()
    access.authenticate = AsyncMock(side_effect=UnauthorizedError("A valid bearer token is needed."))
    settings = Settings.model_validate({"trusted_proxies": trusted})
    app = build_http(MagicMock(), access, settings, MagicMock())
    schemes: list[str] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        schemes.append(scope["scheme"])

    answer = TestClient(noting, client=(peer, 50000)).get("/api/v1/apps", headers=FORWARDED)
    assert answer.status_code == 401
    access.authenticate.assert_awaited_once_with(None, [], address)
    assert schemes == [scheme]
