"""The tools of agents over streamable HTTP: tokens, limits and names, asked by the official client."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from serve_app.api.mcp.in_process import AppTransport
from tests.support.http_clients import browsing, serving
from tests.support.ingresses import Ingress, ScenarioRunner, scenario_runner
from tests.support.tasks import queued

At = Callable[..., None]
Make = Callable[..., Ingress]
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
OUTSIDE = httpx.MockTransport(lambda _: httpx.Response(418))
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScenarioRunner:
    return scenario_runner(valkey, tmp_path, monkeypatch)


@asynccontextmanager
async def session_at(url: str, token: str) -> AsyncIterator[ClientSession]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        streamable_http_client(f"{url}/mcp", http_client=http) as (read, write, *_),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


def words(answer: Any) -> str:
    return "\n".join(part.text for part in answer.content if part.type == "text")


def test_the_tools_are_there_and_see_what_their_token_sees(at: At, tmp_path: Path) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture")
        async with serving(ingress, tmp_path) as (url, token):
            owner = (await ingress.access.authenticate(f"Bearer {token}")).token.owner
            await queued(ingress.tasks, "mine", owner=owner)
            await queued(ingress.tasks, "another's")
            async with session_at(url, token) as session:
                tools = {tool.name for tool in (await session.list_tools()).tools}
                assert tools == {"inspect_photo", "make_avatars", "get_task", "list_apps"}
                assert "face-avatar" in words(await session.call_tool("list_apps", {}))
                assert words(await session.call_tool("get_task", {"task_id": "mine"})) == "Task mine is PENDING."
                unknown = await session.call_tool("get_task", {"task_id": "another's"})
                assert unknown.is_error
                assert "no task" in words(unknown)
                path = await session.call_tool("make_avatars", {"photo": "/etc/hostname"})
                assert path.is_error
                assert "not an http(s) URL" in words(path)

    at(scenario)


def test_a_token_is_needed_and_a_body_has_the_limit_of_all_bodies(at: At, tmp_path: Path) -> None:
    async def scenario(make: Make) -> None:
        async with (
            serving(make("picture"), tmp_path, max_body_bytes=2048) as (url, token),
            httpx.AsyncClient(base_url=url, headers=ACCEPT) as client,
        ):
            assert (await client.post("/mcp", json=PING)).status_code == 401
            bearer = {"Authorization": f"Bearer {token}"}
            assert (await client.post("/mcp", json=PING, headers=bearer)).status_code == 200
            large = await client.post("/mcp", json=PING | {"params": {"x": "x" * 3000}}, headers=bearer)
            assert (large.status_code, large.json()["error"]) == (413, "Request Too Large")
            garbled = await client.post("/mcp", content=b"{", headers=bearer | {"Content-Type": "application/json"})
            assert (garbled.status_code, garbled.json()["error"]) == (422, "Invalid Request")
            assert (await client.get("/mcp", headers=bearer)).status_code == 405

    at(scenario)


@pytest.mark.parametrize(
    ("public_url", "headers", "status"),
    [
        (None, {}, 200),
        (None, {"Origin": "http://evil.test"}, 403),
        ("https://avatars.test", {}, 403),
        ("https://avatars.test", {"Host": "avatars.test"}, 200),
        ("https://avatars.test", {"Host": "avatars.test", "Origin": "https://avatars.test"}, 200),
        ("https://avatars.test", {"Host": "avatars.test", "Origin": "https://app.test"}, 200),
        ("https://avatars.test", {"Host": "avatars.test", "Origin": "https://evil.test"}, 403),
    ],
)
def test_other_names_and_pages_of_other_sites_are_refused(
    at: At, tmp_path: Path, public_url: str | None, headers: dict[str, str], status: int
) -> None:
    async def scenario(make: Make) -> None:
        settings = {"public_url": public_url, "cors": {"origins": ["https://app.test"]}}
        async with (
            serving(make("picture"), tmp_path, **settings) as (url, token),
            httpx.AsyncClient(base_url=url, headers=ACCEPT | {"Authorization": f"Bearer {token}"}) as client,
        ):
            answer = await client.post("/mcp", json=PING, headers=headers)
            assert answer.status_code == status, answer.text
            if status == 403:
                assert answer.json()["error"] == "Forbidden"

    at(scenario)


def test_without_the_package_the_route_says_how_to_install_it(
    at: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("serve_app.api.mcp.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)

    async def scenario(make: Make) -> None:
        async with browsing(make("picture"), tmp_path) as (client, _owner):
            answer = await client.post("/mcp", json=PING)
            assert (answer.status_code, answer.json()["error"]) == (404, "Not Found")
            assert "pip install 'face-avatar[mcp]'" in answer.json()["error_data"]["message"]

    at(scenario)


def test_an_application_in_the_process_answers_part_by_part_and_hears_who_leaves() -> None:
    async def scenario() -> None:
        seen: dict[str, Any] = {}
        going_on = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.update(scope, body=(await receive())["body"])
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            try:
                await going_on.wait()
            except asyncio.CancelledError:
                seen["left"] = True
                raise

        async with (
            httpx.AsyncClient(transport=AppTransport(app, "https://avatars.test/below", OUTSIDE)) as client,
            client.stream("POST", "https://avatars.test/below/a%20b?c=d", content=b"body") as answer,
        ):
            parts = answer.aiter_bytes()
            assert await anext(parts) == b"first"
            assert (answer.status_code, answer.headers["x-a"]) == (200, "1")
            assert (seen["path"], seen["raw_path"], seen["query_string"]) == ("/a b", b"/a%20b", b"c=d")
            assert (seen["method"], seen["body"]) == ("POST", b"body")
            assert dict(seen["headers"])[b"host"] == b"avatars.test"
            assert (await client.get("https://store.test/a.png")).status_code == 418
        assert seen["left"]

    asyncio.run(scenario())


def test_an_application_that_does_not_answer_is_an_error_of_the_connection() -> None:
    async def scenario() -> None:
        async def app(_scope: Any, _receive: Any, _send: Any) -> None:
            raise RuntimeError("a bug")

        async with httpx.AsyncClient(transport=AppTransport(app, "http://here", OUTSIDE)) as client:
            with pytest.raises(httpx.ReadError):
                await client.get("http://here/")

    asyncio.run(scenario())
