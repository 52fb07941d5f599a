"""`face-avatar generate DIR` against the HTTP application of an ingress, whose batches are drawn beside it."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli import folder
from serve_app.cli.root import main
from serve_app.errors import ImageUrlError
from serve_app.photos.source import PhotoSource
from tests.support.batches import Press
from tests.support.fake_service import picture
from tests.support.http_clients import serving
from tests.support.ingresses import Ingress, scenario_runner

PHOTOS = ("ann.png", "bob.png", "cat.png")


class Command:
    """The command, in a thread of this process; the batches are drawn as long as the block runs."""

    def __init__(self, url: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._url = url
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("FACE_AVATAR_TOKEN", token)

    async def run(self, *arguments: str) -> object:
        """Its exit code."""
        words = ["face-avatar", "generate", "photos", "-o", "out", *arguments, "--url", self._url]
        self._monkeypatch.setattr(sys, "argv", words)

        def run() -> object:
            with pytest.raises(SystemExit) as ended:
                main()
            return ended.value.code or 0

        return await asyncio.to_thread(run)


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder, "POLL_S", 0.05)
    Path("photos").mkdir()
    for number, name in enumerate(PHOTOS):
        Path("photos", name).write_bytes(picture(number))
    runner = scenario_runner(valkey, tmp_path, monkeypatch)

    def run(scenario: Any) -> None:
        async def within(make: Callable[..., Ingress]) -> None:
            ingress = make("picture")
            async with serving(ingress, tmp_path) as (url, token):
                await scenario(Command(url, token, monkeypatch), Press(ingress, tmp_path))

        runner(within)

    return run


@contextlib.asynccontextmanager
async def drawing(press: Press) -> AsyncIterator[None]:
    """Draws while the block runs."""

    async def draw() -> None:
        while True:
            await press.run()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(draw())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def avatars() -> dict[str, list[float]]:
    """When the avatars of each photo were written."""
    return {name: [path.stat().st_mtime_ns for path in Path("out").glob(f"{Path(name).stem}-*.png")] for name in PHOTOS}


def change_photos() -> None:
    """Avatars of one photo are lost, and there is another photo."""
    for path in Path("out").glob("bob-*"):
        path.unlink()
    Path("photos", "dan.png").write_bytes(picture(9))


def test_a_folder_is_a_batch_that_goes_on_where_it_was_left(
    at: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(command: Command, press: Press) -> None:
        assert await command.run("--no-wait", "--gender", "female") == 0
        (batch_id,) = await press.store.active()
        assert batch_id in capsys.readouterr().out
        async with drawing(press):
            assert await command.run("--gender", "female") == 0
        first = avatars()
        assert [len(files) for files in first.values()] == [1, 1, 1]
        assert press.drawn.total() == 3
        assert "3 of 3 photos" in capsys.readouterr().out
        change_photos()
        async with drawing(press):
            assert await command.run("--gender", "female") == 0
        assert press.drawn.total() == 5
        assert avatars() | {"bob.png": []} == first | {"bob.png": []}
        assert await command.run("--gender", "male") == 1
        assert "other options" in capsys.readouterr().err

    at(scenario)


def test_ctrl_c_leaves_the_batch_and_says_so(
    at: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(command: Command, press: Press) -> None:
        def interrupt(_seconds: float) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(folder.time, "sleep", interrupt)
            assert await command.run() == 130
        assert "The batch goes on" in capsys.readouterr().err
        async with drawing(press):
            assert await command.run() == 0
        assert press.drawn.total() == 3

    at(scenario)


def test_photos_that_are_refused_are_told_and_the_others_drawn(
    at: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(command: Command, press: Press) -> None:
        photos = press.ingress.service.intake.photos

        async def one_is_broken(sources: list[PhotoSource], owner: str) -> Any:
            if sources[0].read(1 << 20) == picture(1):
                raise ImageUrlError("this is no picture", reason="broken")
            return await photos(sources, owner)

        press.ingress.service.intake.photos = one_is_broken  # type: ignore[method-assign,assignment]
        async with drawing(press):
            assert await command.run() == 1
        assert "bob.png: this is no picture" in capsys.readouterr().err
        assert [len(files) for files in avatars().values()] == [1, 0, 1]

    at(scenario)
