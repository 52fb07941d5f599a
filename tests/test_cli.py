"""The commands as a newcomer runs them: processes of their own, stopped with signals."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from serve_app.local import CONFIG, free_port
from tests.conftest import data_url, photo_files

BIN = Path(sys.executable).parent
START_S = 240
STOP_S = 60


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "face-avatar"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=START_S, check=False)


@contextlib.contextmanager
def running(command: list[str], cwd: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own; gone, with all its children, after the block."""
    log = (cwd / "log").open("w+")
    process = subprocess.Popen(
        command, cwd=cwd, stdout=log, stderr=log, text=True, start_new_session=True, env=os.environ | environment
    )
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        log.close()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def make(url: str, token: str, **fields: Any) -> httpx.Response:
    body = {"app_id": "face-avatar", "file_url": data_url(photo_files()["astronaut.png"]), "seed": 3, **fields}
    return httpx.post(f"{url}/getImageToImage", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=120)


def test_version_and_help_need_no_service(tmp_path: Path) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("--version", cwd=tmp_path).stdout)
    assert "demo" in run("--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "absent.jpg"], "absent.jpg"),
        (["serve", "--config", "absent.yaml"], "absent.yaml"),
        (["serve", "--config", "broken.yaml"], "broken.yaml"),
        (["serve", "--config", "unknown.yaml"], "nonsense"),
        (["serve", "--port", "70000"], "65535"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line_before_anything_starts(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "broken.yaml").write_text("applications: [")
    unknown = yaml.safe_load(CONFIG.read_text())
    unknown["applications"][0]["args"]["nonsense"] = 1
    (tmp_path / "unknown.yaml").write_text(yaml.safe_dump(unknown))
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_demo_writes_avatars_of_the_asked_photo(tmp_path: Path) -> None:
    (tmp_path / "me.png").write_bytes(photo_files()["hanks.png"])
    done = run("demo", "me.png", "--batch", "2", "--seed", "5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    avatars = sorted((tmp_path / "avatars").iterdir())
    assert [path.name for path in avatars] == ["me-5.png", "me-6.png"]
    assert [Image.open(path).size for path in avatars] == [(512, 512)] * 2
    assert "diffusion" in done.stdout


@pytest.mark.slow
def test_the_demo_says_what_is_wrong_with_a_photo(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(photo_files()["cat.png"])
    done = run("demo", "cat.png", cwd=tmp_path)
    assert done.returncode == 1
    assert "Face Consistent Error" in done.stderr
    assert not (tmp_path / "avatars").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_start_leaves_no_process_behind(
    tmp_path: Path, poll: Callable[..., Any], number: signal.Signals
) -> None:
    command = [str(BIN / "face-avatar"), "serve", "--port", str(free_port()), "--data-dir", str(tmp_path / "data")]
    with running(command, tmp_path) as process:
        family = poll(lambda: psutil.Process(process.pid).children(recursive=True)[3:], START_S)
        process.send_signal(number)
        process.wait(STOP_S)
        poll(lambda: not any(member.is_running() for member in family))


@pytest.mark.slow
def test_a_second_start_goes_on_with_the_same_token_and_results(tmp_path: Path, poll: Callable[..., Any]) -> None:
    data = tmp_path / "data"
    paths, tokens = [], []
    for _ in range(2):
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(BIN / "face-avatar"), "serve", "--port", str(port), "--data-dir", str(data)]
        with running(command, tmp_path) as process:
            poll(lambda url=url: answers(url), START_S)
            token = (data / "token").read_text().strip()
            tokens.append(token)
            envelope = make(url, token).json()
            assert envelope["status"] == "SUCCESS", envelope
            paths.append(envelope["output"]["result"][0].removeprefix(url))
            for path in paths:
                assert httpx.get(url + path).status_code == 200
            refused = make(url, token, file_url=f"{url}/healthz")
            assert (refused.status_code, refused.json()["error"]) == (422, "Image URL Error")
            family = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)  # as ctrl-C in a terminal does
            assert process.wait(STOP_S) == 0
            poll(lambda family=family: not any(member.is_running() for member in family))
    assert tokens[0] == tokens[1]


@pytest.mark.slow
def test_serve_run_takes_the_same_config(tmp_path: Path, poll: Callable[..., Any]) -> None:
    config = yaml.safe_load(CONFIG.read_text())
    port = free_port()
    config["http_options"]["port"] = port
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{port}"
    data = tmp_path / "data"
    command = [str(BIN / "serve"), "run", "config.yaml", "--address", "local"]
    with running(command, tmp_path, FACE_AVATAR_DATA_DIR=str(data)):
        poll(lambda: answers(url), START_S)
        answer = make(url, (data / "token").read_text().strip())
        assert answer.json()["status"] == "SUCCESS", answer.text
        url = answer.json()["output"]["result"][0]
        picture = httpx.get(url).content
        (tmp_path / "avatar.png").write_bytes(picture)
        assert np.asarray(Image.open(tmp_path / "avatar.png")).shape == (512, 512, 3)
