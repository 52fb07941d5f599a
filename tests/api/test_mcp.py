"""The tools of agents, `face-avatar mcp` and `/mcp`, spoken to by the official client, over a real local Serve."""

import asyncio
import base64
import io
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver.exceptions import ToolError
from PIL import Image

from serve_app.api.mcp.tools import PhotoFolders
from tests.support.photos import photo_files
from tests.support.service import Service

Talk = Callable[[ClientSession], Awaitable[None]]
TIMEOUT_S = 120


@dataclass(frozen=True)
class Way:
    """A way to the tools: `photo` is how a photo with this name is named there."""

    open: Callable[[], AbstractAsyncContextManager[ClientSession]]
    photo: Callable[[str], str]

    def talk(self, conversation: Talk) -> None:
        async def within() -> None:
            async with self.open() as session:
                await session.initialize()
                await conversation(session)

        asyncio.run(asyncio.wait_for(within(), TIMEOUT_S))


@pytest.fixture(params=["stdio", "http"])
def way(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Way:
    """A server on stdin and stdout that may read `tmp_path`, and the service's own `/mcp`."""
    token = service.client.headers["Authorization"].removeprefix("Bearer ")
    for name in ("astronaut.png", "cat.png"):
        (tmp_path / name).write_bytes(photo_files()[name])
    server = StdioServerParameters(
        command=str(Path(sys.executable).with_name("face-avatar")),
        args=["mcp", "--folder", str(tmp_path), "--url", service.url],
        env={"FACE_AVATAR_TOKEN": token},
    )

    @asynccontextmanager
    async def on_stdio() -> AsyncIterator[ClientSession]:
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            yield session

    @asynccontextmanager
    async def over_http() -> AsyncIterator[ClientSession]:
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S) as http,
            streamable_http_client(f"{service.url}/mcp", http_client=http) as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            yield session

    if request.param == "stdio":
        return Way(on_stdio, lambda name: str(tmp_path / name))
    return Way(over_http, lambda name: f"{service.photos}/{name}")


def words(answer: Any) -> str:
    return "\n".join(part.text for part in answer.content if part.type == "text")


def test_avatars_come_as_thumbnails_and_links_with_progress_on_the_way(way: Way, service: Service) -> None:
    async def conversation(session: ClientSession) -> None:
        inspected = await session.call_tool("inspect_photo", {"photo": way.photo("astronaut.png")})
        assert words(inspected).startswith("It can be used. 1 face(s)")
        steps: list[float] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            steps.append(progress)

        made = await session.call_tool(
            "make_avatars",
            {"photo": way.photo("astronaut.png"), "count": 2, "width": 256, "height": 256, "seed": 3},
            progress_callback=on_progress,
        )
        assert not made.is_error, words(made)
        thumbnails = [part for part in made.content if part.type == "image"]
        assert [Image.open(io.BytesIO(base64.b64decode(each.data))).format for each in thumbnails] == ["WEBP"] * 2
        assert sum(len(each.data) for each in thumbnails) < 100_000
        links = [word for word in words(made).split() if word.startswith("http")]
        assert [service.image(link).size for link in links] == [(256, 256)] * 2
        assert steps == sorted(steps)
        task_id = words(made).split()[1].rstrip(":")
        again = await session.call_tool("get_task", {"task_id": task_id})
        assert len([part for part in again.content if part.type == "image"]) == 2

    way.talk(conversation)


def test_an_agent_finds_the_tools_and_is_told_in_words_what_goes_wrong(way: Way) -> None:
    async def conversation(session: ClientSession) -> None:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert tools.keys() == {"inspect_photo", "make_avatars", "get_task", "list_apps"}
        taken = tools["make_avatars"].input_schema
        assert taken["required"] == ["photo"]
        assert taken["properties"]["count"]["maximum"] == 8
        assert "face-avatar" in words(await session.call_tool("list_apps", {}))
        cat = await session.call_tool("inspect_photo", {"photo": way.photo("cat.png")})
        assert words(cat).startswith("It cannot be used")
        for tool, arguments, said in [
            ("make_avatars", {"photo": way.photo("cat.png")}, "face"),
            ("make_avatars", {"photo": "/etc/hostname"}, "URL"),
            ("make_avatars", {"photo": way.photo("astronaut.png"), "app_id": "absent"}, "absent"),
            ("get_task", {"task_id": "absent"}, "no task"),
        ]:
            answer = await session.call_tool(tool, arguments)
            assert answer.is_error
            assert said in words(answer)

    way.talk(conversation)


def test_only_files_in_the_folders_are_sent_wherever_links_lead(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "photos", tmp_path / "secret.png"
    allowed.mkdir()
    secret.write_bytes(b"not for agents")
    (allowed / "me.png").write_bytes(b"me")
    (allowed / "link.png").symlink_to(secret)
    folders = PhotoFolders([allowed])
    assert folders.photo(str(allowed / "me.png")) == allowed / "me.png"
    assert folders.photo("https://example.org/me.png") == "https://example.org/me.png"
    for named in (secret, allowed / "link.png", allowed / ".." / "secret.png", allowed / "absent.png", allowed):
        with pytest.raises(ToolError):
            folders.photo(str(named))
    with pytest.raises(ToolError, match="--folder"):
        PhotoFolders([]).photo(str(allowed / "me.png"))
