"""The headers around every answer, on a small ASGI application."""

import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from serve_app.api.security_headers import CorsSettings, with_headers

PAGE = "https://app.example.org"


async def envelope(request: Request) -> Response:
    request.state.answer_headers = {"RateLimit-Remaining": "3"}
    return JSONResponse({})


async def page(_request: Request) -> Response:
    return HTMLResponse("", headers={"Content-Security-Policy": "its own", "Cache-Control": "no-cache"})


async def unchanged(_request: Request) -> Response:
    return Response(status_code=304)


async def bug(_request: Request) -> Response:
    raise RuntimeError("a bug")


def client(*origins: str, public_url: str | None = None) -> TestClient:
    routes = [Route("/envelope", envelope, methods=["GET", "POST"]), Route("/page", page), Route("/bug", bug)]
    app = Starlette(routes=[*routes, Route("/unchanged", unchanged)])
    return TestClient(with_headers(app, CorsSettings(origins=origins), public_url), raise_server_exceptions=False)


@pytest.mark.parametrize("path", ["/envelope", "/page", "/bug", "/nowhere", "/unchanged"])
def test_every_answer_may_be_neither_sniffed_nor_framed_nor_told_of(path: str) -> None:
    headers = client().get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_an_envelope_is_not_kept_and_runs_nothing() -> None:
    headers = client().get("/envelope").headers
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["ratelimit-remaining"] == "3"  # what its route left


def test_what_an_answer_says_of_itself_stays() -> None:
    headers = client().get("/page").headers
    assert (headers["content-security-policy"], headers["cache-control"]) == ("its own", "no-cache")
    assert "content-security-policy" not in client().get("/unchanged").headers  # that of the page that is kept counts


def test_https_is_asked_for_only_where_the_service_is_reached_by_it() -> None:
    assert "strict-transport-security" not in client(public_url="http://localhost").get("/envelope").headers
    assert "strict-transport-security" not in client().get("/envelope").headers
    assert client(public_url="https://x.example").get("/envelope").headers["strict-transport-security"]


def test_pages_of_other_origins_get_nothing_unless_they_are_named() -> None:
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client().get("/envelope", headers={"Origin": PAGE}).headers
    assert client().options("/envelope", headers=preflight).status_code == 405
    other = client("https://other.example")
    assert "access-control-allow-origin" not in other.get("/envelope", headers={"Origin": PAGE}).headers
    assert other.options("/envelope", headers=preflight).status_code == 400


def test_a_named_origin_may_send_its_token_and_read_the_limits_but_no_cookies_count() -> None:
    named = client(PAGE)
    wanted = "authorization,content-type,idempotency-key,last-event-id"
    preflight = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": wanted,
    }
    allowed = named.options("/envelope", headers=preflight)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    answer = named.get("/envelope", headers={"Origin": PAGE})
    exposed = answer.headers["access-control-expose-headers"]
    assert {"X-Request-Id", "Retry-After", "RateLimit-Remaining"} <= set(exposed.split(", "))
    for headers in (allowed.headers, answer.headers):
        assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("origin", ["app.example.org", "https://app.example.org/", "ftp://x", "https://", "null"])
def test_what_is_no_origin_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="no origin"):
        CorsSettings(origins=(origin,))
