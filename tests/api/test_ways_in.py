"""Tokens, limits, usage and privacy are those of the service, on whatever way a request for avatars comes in."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from serve_app.auth.tokens import UNLIMITED, Limits, TokenGrant, TokenStore
from serve_app.auth.usage import Usage, usage_of
from serve_app.backends.secrets import sha256
from serve_app.photos.sample import sample_photo
from tests.support.http_clients import serving
from tests.support.ingresses import Ingress, ScenarioRunner, scenario_runner
from tests.support.photos import data_url
from tests.support.polling import eventually
from tests.support.workers import working

At = Callable[..., None]
Make = Callable[..., Ingress]

PROMPT = "in the manner of quixotic zanzibar"
URL_SECRET = "query-of-a-photo-url-5d1f"
PHOTO_URL = f"https://example.org/me.jpg?token={URL_SECRET}"
PHOTO = sample_photo().read_bytes()
FILE = ("me.png", PHOTO)


@dataclass(frozen=True)
class Way:
    """How a request is written, and how its task and the name of an error are read from an answer."""

    request: dict[str, Any]
    task_id: Callable[[httpx.Response], str]
    error: Callable[[httpx.Response], str]
    path: str = "/getImageToImage"
    refusal: int = 429  # the status of a refused request


def in_envelope(answer: httpx.Response) -> str:
    assert answer.json().keys() >= {"status", "output", "task_id"}
    return str(answer.json()["error"])


def in_openai(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["code"])


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


def told(answer: httpx.Response) -> dict[str, Any]:
    """The last message of a stream: the result of a tool."""
    (*_, last) = [line.removeprefix("data:") for line in answer.text.splitlines() if line.startswith("data:")]
    result: dict[str, Any] = json.loads(last)["result"]
    return result


def in_words(answer: httpx.Response) -> str:
    """Before the protocol an error is an envelope, within it words."""
    if answer.headers["content-type"].startswith("application/json"):
        return in_envelope(answer)
    assert told(answer)["isError"]
    return str(told(answer)["content"][0]["text"]).removeprefix("Error executing tool make_avatars: ").partition(":")[0]


FIELDS = {"app_id": "face-avatar", "prompt": PROMPT}
WAYS = {
    "JSON": Way({"json": {**FIELDS, "file_url": PHOTO_URL}}, lambda answer: answer.json()["task_id"], in_envelope),
    "form": Way({"data": FIELDS, "files": {"file": FILE}}, lambda answer: answer.json()["task_id"], in_envelope),
    "queue": Way(
        {"json": {**FIELDS, "file_url": data_url(PHOTO), "celery": True}},
        lambda answer: answer.json()["task_id"],
        in_envelope,
    ),
    "OpenAI": Way(
        {"data": {"prompt": PROMPT, "response_format": "url"}, "files": {"image": FILE}},
        lambda answer: httpx.URL(answer.json()["data"][0]["url"]).path.split("/")[2],
        in_openai,
        "/v1/images/edits",
    ),
    "MCP": Way(
        {
            "json": tool("make_avatars", photo=PHOTO_URL, prompt=PROMPT),
            "headers": {"Accept": "application/json, text/event-stream"},
        },
        lambda answer: told(answer)["content"][0]["text"].split()[1].rstrip(":"),
        in_words,
        "/mcp",
        refusal=200,
    ),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScenarioRunner:
    monkeypatch.setattr("serve_app.auth.access.REFUSAL_DELAY_S", 0)
    monkeypatch.setattr("serve_app.auth.image_quota._seconds_to_midnight", lambda: 3600)  # nobody waits for it
    return scenario_runner(valkey, tmp_path, monkeypatch)


@dataclass(frozen=True)
class Service:
    """A whole service without models, with two tokens; the first may have one image a day."""

    ingress: Ingress
    client: httpx.AsyncClient
    ann: str
    bob: str

    async def send(self, way: Way, token: str | None) -> httpx.Response:
        bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = {**way.request, "headers": way.request.get("headers", {}) | bearer}
        return await self.client.post(way.path, **request)

    async def task(self, task_id: str, token: str) -> httpx.Response:
        return await self.client.get(f"/api/v1/tasks/{task_id}", headers={"Authorization": f"Bearer {token}"})


@asynccontextmanager
async def service_of(ingress: Ingress, data_dir: Path) -> AsyncIterator[Service]:
    tokens = TokenStore(ingress.redis)
    ann = await tokens.add(TokenGrant("ann", limits=Limits(images_per_day=1)))
    bob = await tokens.add(TokenGrant("bob", limits=UNLIMITED))
    async with (
        serving(ingress, data_dir) as (url, _own),
        working(ingress),
        httpx.AsyncClient(base_url=url, timeout=40) as client,
    ):
        yield Service(ingress, client, ann, bob)


async def done(service: Service, task_id: str, token: str) -> dict[str, Any]:
    """The envelope of a task when it is over."""

    async def looked() -> dict[str, Any] | None:
        envelope: dict[str, Any] = (await service.task(task_id, token)).json()
        return envelope if envelope["status"] not in ("PENDING", "STARTED") else None

    return await eventually(looked)


async def usage(service: Service, token: str) -> Usage:
    """What was counted, when the images were written."""

    async def read() -> Usage | None:
        found = await usage_of(service.ingress.redis, sha256(token)[:16], days=1)
        return found if found.images else None

    return await eventually(read)


def test_without_a_token_nothing_is_done(at: At, tmp_path: Path, way: Way) -> None:
    async def scenario(make: Make) -> None:
        ingress = make("picture")
        async with service_of(ingress, tmp_path) as service:
            for token in (None, "wrong"):
                refused = await service.send(way, token)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert way.error(refused).lower() == "unauthorized"
            assert ingress.pipeline.jobs == []

    at(scenario)


def test_a_request_is_its_owners_alone_counted_once_and_kept_within_limits(
    at: At, tmp_path: Path, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "serve_app")

    async def scenario(make: Make) -> None:
        ingress = make("picture")
        async with service_of(ingress, tmp_path) as service:
            made = await service.send(way, service.ann)
            assert made.is_success, made.text
            task_id = way.task_id(made)
            seen = await done(service, task_id, service.ann)
            assert (seen["status"], seen["input"]["prompt"]) == ("SUCCESS", PROMPT)
            hidden = await service.task(task_id, service.bob)
            assert (hidden.status_code, hidden.json()["error"]) == (404, "Unknown Task")
            counted = await usage(service, service.ann)
            assert (counted.requests, counted.images) == (1, 1)

            refused = await service.send(way, service.ann)
            assert refused.status_code == way.refusal
            assert way.error(refused).lower().replace("_", " ").startswith("rate limit")
            assert len(ingress.pipeline.jobs) == 1
            assert (await service.send(way, service.bob)).is_success
            logged = caplog.text
            for secret in (PROMPT, URL_SECRET, service.ann, data_url(PHOTO)[22:80], repr(PHOTO[:40])[2:-1]):
                assert secret not in logged

    at(scenario)
    assert caplog.records  # the log is looked at


def test_an_agent_does_not_see_the_tasks_of_others(at: At, tmp_path: Path) -> None:
    async def scenario(make: Make) -> None:
        async with service_of(make("picture"), tmp_path) as service:
            task_id = WAYS["JSON"].task_id(await service.send(WAYS["JSON"], service.ann))
            asking = Way({**WAYS["MCP"].request, "json": tool("get_task", task_id=task_id)}, str, in_words, "/mcp")
            own, others = await service.send(asking, service.ann), await service.send(asking, service.bob)
            assert task_id in told(own)["content"][0]["text"]
            assert told(others)["isError"]
            assert "no task" in told(others)["content"][0]["text"]

    at(scenario)


# Whatever comes to /mcp

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["inspect_photo", "make_avatars", "get_task", "list_apps", "absent"])
ARGUMENTS = st.dictionaries(st.sampled_from(["photo", "more_photos", "count", "seed", "task_id", "width"]), JSON)
CALL = st.fixed_dictionaries({"name": NAMES | JSON, "arguments": ARGUMENTS | JSON})
METHODS = [
    "tools/call",
    "tools/list",
    "initialize",
    "ping",
    "prompts/list",
    "resources/read",
    "notifications/initialized",
]
MESSAGE = st.fixed_dictionaries(
    {"method": st.sampled_from(METHODS) | st.text(max_size=20), "params": CALL | JSON},
    optional={"jsonrpc": st.just("2.0") | JSON, "id": st.integers() | st.text(max_size=5) | JSON},
)
BODIES = (MESSAGE | st.lists(MESSAGE, max_size=3) | JSON).map(lambda body: json.dumps(body).encode()) | st.binary()


@pytest.mark.slow
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(bodies=st.lists(BODIES, min_size=25, max_size=25))
def test_no_body_makes_the_tools_fail(at: At, tmp_path: Path, bodies: list[bytes]) -> None:
    async def scenario(make: Make) -> None:
        async with service_of(make("picture"), tmp_path) as service:
            headers = {"Authorization": f"Bearer {service.bob}", "Content-Type": "application/json"}
            headers |= WAYS["MCP"].request["headers"]
            for body in bodies:
                answer = await service.client.post("/mcp", content=body, headers=headers)
                assert answer.status_code < 500, (body, answer.text)
                assert "Traceback" not in answer.text
            alive = await service.client.post("/mcp", json=tool("list_apps"), headers=headers)
            assert "face-avatar" in told(alive)["content"][0]["text"]

    at(scenario)
