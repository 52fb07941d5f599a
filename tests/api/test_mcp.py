"""The tools of agents: `face-avatar mcp` as a process, spoken to by the official client, over a real local Serve."""

import asyncio
import base64
import io
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.server.mcpserver.exceptions import ToolError
from PIL import Image

from serve_app.cli.mcp_server import PhotoFolders
from serve_app.photos.sample import sample_photo
from tests.support.photos import photo_files
from tests.support.service import Service

Talk = Callable[[ClientSession], Awaitable[None]]
TIMEOUT_S = 120


@pytest.fixture
def talk(service: Service, tmp_path: Path) -> Callable[[Talk], None]:
    """Runs a conversation with a server that may read `tmp_path`."""
    (tmp_path / "me.png").write_bytes(sample_photo().read_bytes())
    (tmp_path / "cat.png").write_bytes(photo_files()["cat.png"])
    command = Path(sys.executable).with_name("face-avatar")
    server = StdioServerParameters(
        command=str(command),
        args=["mcp", "--folder", str(tmp_path), "--url", service.url],
        env={"FACE_AVATAR_TOKEN": service.client.headers["Authorization"].removeprefix("Bearer ")},
    )

    def run(conversation: Talk) -> None:
        async def within() -> None:
            async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
                await session.initialize()
                await conversation(session)

        asyncio.run(asyncio.wait_for(within(), TIMEOUT_S))

    return run


def words(answer: Any) -> str:
    return "\n".join(part.text for part in answer.content if part.type == "text")


def test_avatars_come_as_thumbnails_and_links_with_progress_on_the_way(
    talk: Callable[[Talk], None], service: Service, tmp_path: Path
) -> None:
    async def conversation(session: ClientSession) -> None:
        inspected = await session.call_tool("inspect_photo", {"photo": str(tmp_path / "me.png")})
        assert words(inspected).startswith("It can be used. 1 face(s)")
        steps: list[float] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            steps.append(progress)

        made = await session.call_tool(
            "make_avatars",
            {"photo": str(tmp_path / "me.png"), "count": 2, "width": 256, "height": 256, "seed": 3},
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

    talk(conversation)


def test_an_agent_finds_the_tools_and_is_told_in_words_what_goes_wrong(
    talk: Callable[[Talk], None], tmp_path: Path
) -> None:
    async def conversation(session: ClientSession) -> None:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert tools.keys() == {"inspect_photo", "make_avatars", "get_task", "list_apps"}
        taken = tools["make_avatars"].input_schema
        assert taken["required"] == ["photo"]
        assert taken["properties"]["count"]["maximum"] == 8
        assert "face-avatar" in words(await session.call_tool("list_apps", {}))
        cat = await session.call_tool("inspect_photo", {"photo": str(tmp_path / "cat.png")})
        assert words(cat).startswith("It cannot be used")
        for tool, arguments, said in [
            ("make_avatars", {"photo": str(tmp_path / "cat.png")}, "face"),
            ("make_avatars", {"photo": "/etc/hostname"}, "allowed folder"),
            ("make_avatars", {"photo": str(tmp_path / "me.png"), "app_id": "absent"}, "absent"),
            ("get_task", {"task_id": "absent"}, "no task"),
        ]:
            answer = await session.call_tool(tool, arguments)
            assert answer.is_error
            assert said in words(answer)

    talk(conversation)


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
