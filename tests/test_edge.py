"""The middleware around Serve's proxy, without Serve."""

from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.testclient import TestClient

from serve_app import edge
from serve_app.edge import PROXY_CALLBACK, Edge, check_supported
from serve_app.http_protocol import UnsupportedServerError
from serve_app.launcher import ServiceOptions, free_port, run_service
from serve_app.local_ray import StartError


async def headers_seen(request: Request) -> Response:
    return JSONResponse(dict(request.headers))


async def plain_error(request: Request) -> Response:
    return PlainTextResponse("Internal Server Error", int(request.path_params["status"]), {"x-request-id": "7"})


async def crash(_request: Request) -> Response:
    raise RuntimeError("the replica died")


async def own_error(_request: Request) -> Response:
    return JSONResponse({"mine": True}, 503)


async def stream(_request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b"a", b"b", b"c"):
            yield part

    return StreamingResponse(parts(), media_type="text/plain")


@pytest.fixture
def client() -> Iterator[TestClient]:
    routes = [
        Route("/headers", headers_seen),
        Route("/plain/{status:int}", plain_error),
        Route("/own", own_error),
        Route("/crash", crash),
        Route("/stream", stream),
    ]
    with TestClient(Edge(Router(routes)), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    "name", ["X-Request-Timeout-Seconds", "x_request_disconnect_disabled", "Serve-Multiplexed-Model-Id", "X-Session-Id"]
)
def test_headers_that_steer_serve_are_dropped(client: TestClient, name: str) -> None:
    seen = client.get("/headers", headers={name: "1", "X-Other": "kept"}).json()
    assert name.lower() not in seen
    assert seen["x-other"] == "kept"


def test_only_a_plain_request_id_passes(client: TestClient) -> None:
    assert client.get("/headers", headers={"X-Request-Id": "mine-7"}).json()["x-request-id"] == "mine-7"
    for odd in (b"", b"two words", b"\xff", b"x" * 129):
        assert "x-request-id" not in client.get("/headers", headers={"X-Request-Id": odd}).json()


@pytest.mark.parametrize(
    ("status", "answered", "error"),
    [(500, 500, "Internal Error"), (404, 404, "Not Found"), (408, 504, "Timeout"), (503, 503, "Overloaded")],
)
def test_an_error_of_the_proxys_own_becomes_the_envelope(
    client: TestClient, status: int, answered: int, error: str
) -> None:
    answer = client.get(f"/plain/{status}")
    assert answer.status_code == answered
    assert answer.json()["error"] == error
    assert answer.json()["status"] == "FAILED"
    assert answer.headers["x-request-id"] == "7"
    assert ("retry-after" in answer.headers) == (answered == 503)


def test_a_replica_that_dies_is_answered_for(client: TestClient) -> None:
    answer = client.get("/crash", headers={"X-Request-Id": "mine-7"})
    assert (answer.status_code, answer.json()["error"]) == (503, "Overloaded")
    assert answer.headers["x-request-id"] == "mine-7"


def test_what_the_application_says_passes_unchanged(client: TestClient) -> None:
    assert (client.get("/own").status_code, client.get("/own").json()) == (503, {"mine": True})
    assert client.get("/stream").text == "abc"


def test_a_ray_that_would_call_no_middleware_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(edge.serve_constants, PROXY_CALLBACK)
    with pytest.raises(UnsupportedServerError, match=PROXY_CALLBACK):
        check_supported()
    with (
        pytest.raises(StartError, match="would have no limits"),
        run_service(ServiceOptions(port=free_port())),
    ):
        pytest.fail("it started")
