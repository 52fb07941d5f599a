"""The commands as a newcomer runs them; what starts a service, or is stopped with a signal, as a process of its own."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from serve_app.cli.root import main
from serve_app.launcher import CONFIG, free_port
from tests.support import fake_service
from tests.support.fake_service import TOKEN, FakeService, envelope, picture, refused
from tests.support.photos import data_url, photo_files

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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    (tmp_path / "broken.yaml").write_text("applications: [")
    unknown = yaml.safe_load(CONFIG.read_text())
    unknown["applications"][0]["args"]["nonsense"] = 1
    (tmp_path / "unknown.yaml").write_text(yaml.safe_dump(unknown))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["face-avatar", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code != 0
    assert said in capsys.readouterr().err


@dataclass(frozen=True)
class Ended:
    code: object
    out: str
    err: str


Generate = Callable[..., Ended]


@pytest.fixture
def fake() -> Iterator[FakeService]:
    with fake_service.serving() as service:
        yield service


@pytest.fixture
def generate(
    fake: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Generate:
    """`face-avatar generate` in this process, in a folder with the photo `me.png`, against the small service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACE_AVATAR_TOKEN", TOKEN)
    Path("me.png").write_bytes(picture(1))

    def generate(*arguments: str, url: str = fake.url) -> Ended:
        monkeypatch.setattr(sys, "argv", ["face-avatar", "generate", *arguments, "--url", url])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code or 0, *capsys.readouterr())

    return generate


def test_generate_writes_the_avatars_and_tells_of_each(generate: Generate, fake: FakeService) -> None:
    done = generate("me.png", "-o", "made", "--batch", "2", "--seed", "5")
    assert (done.code, done.err) == (0, "STARTED, step 1 of 12, 0 of 1 images\n")
    assert done.out.splitlines() == [
        f"task {next(iter(fake.tasks))}",
        "made/me-5.png  seed 5  similarity 0.75",
        "made/me-6.png  seed 6  similarity no face found",
        "warning: The file lost its end.",
        "face 0.50 s, diffusion 2.00 s; together 2.50 s",
    ]
    assert {path.name: path.read_bytes() for path in Path("made").iterdir()} == {
        "me-5.png": picture(5),
        "me-6.png": picture(6),
    }


def test_every_option_of_generate_reaches_the_service(generate: Generate, fake: FakeService) -> None:
    options = (
        "--app a --prompt p --gender g --negative-prompt n --batch 2 --width 300 --height 400 --steps 3 --guidance 4.5 "
        "--remove-background --bg-color #fff --seed 0 --format webp --ref-id r --deadline 60 --min-similarity 0.5 "
        "--likeness 0.8 --quality fast --consent --start-deadline 20 --fallback-app b"
    )
    done = generate("https://example.org/x/you.jpg?size=1", *options.split())
    assert done.code == 0, done.err
    assert fake.seen[0].fields == {
        "app_id": "a",
        "file_url": "https://example.org/x/you.jpg?size=1",
        "prompt": "p",
        "gender": "g",
        "negative_prompt": "n",
        "batch": 2,
        "width": 300,
        "height": 400,
        "quality": "fast",
        "num_inference_steps": 3,
        "guidance_scale": 4.5,
        "remove_background": True,
        "bg_color": "#fff",
        "seed": 0,
        "output_format": "webp",
        "ref_id": "r",
        "deadline_s": 60.0,
        "start_deadline_s": 20.0,
        "fallback_app_id": "b",
        "min_similarity": 0.5,
        "ip_adapter_scale": 0.8,
        "consent": True,
        "celery": True,
    }
    assert sorted(path.name for path in Path("avatars").iterdir()) == ["you-0.webp", "you-1.webp"]


def test_several_photos_of_one_person_are_one_request(generate: Generate, fake: FakeService) -> None:
    done = generate("me.png", "https://example.org/me-too.jpg")
    assert done.code == 0, done.err
    assert fake.seen[0].fields["file_urls"][1] == "https://example.org/me-too.jpg"
    assert "warning: photo 1: The file lost its end." in done.out.splitlines()
    assert [path.name for path in Path("avatars").iterdir()] == ["me-7.png"]


def test_too_many_photos_are_refused_before_any_is_read(generate: Generate, fake: FakeService) -> None:
    done = generate(*["absent.png"] * 5)
    assert done.code != 0
    assert "at most 4" in done.err
    assert not fake.seen


def test_what_was_not_asked_is_left_to_the_service(generate: Generate, fake: FakeService) -> None:
    generate("me.png")
    assert fake.seen[0].fields.keys() == {"app_id", "file_url", "celery"}


def test_a_task_is_named_before_it_is_waited_for(generate: Generate, fake: FakeService) -> None:
    done = generate("me.png")
    assert done.code == 0, done.err
    (task_id,) = fake.tasks
    assert fake.seen[0].fields["celery"] is True
    assert done.out.splitlines()[:2] == [f"task {task_id}", "avatars/me-7.png  seed 7  similarity 0.75"]


def test_with_json_the_envelope_is_all_that_stdout_has(generate: Generate, fake: FakeService) -> None:
    done = generate("me.png", "--json")
    (task_id,) = fake.tasks
    assert json.loads(done.out) == json.loads(envelope(**fake.tasks[task_id]))
    assert done.err.startswith(f"task {task_id}\n")
    assert Path("avatars/me-7.png").exists()


def test_without_waiting_it_is_said_how_to_fetch_the_avatars_later(generate: Generate, fake: FakeService) -> None:
    done = generate("me.png", "--no-wait", "--receipts", "-o", "later")
    (task_id,) = fake.tasks
    again = f"face-avatar generate --task {task_id} -o later --receipts --url {fake.url}"
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [f"task {task_id}", f"Fetch its avatars later: {again}"]
    assert not Path("later").exists()
    assert len(fake.seen) == 1
    assert generate(*shlex.split(again)[2:-2]).code == 0
    assert json.loads(Path(f"later/{task_id}-7.json").read_text()) == {"seed": 7}


def test_what_turns_on_a_terminal_does_not_take_stdout_along(fake: FakeService, tmp_path: Path) -> None:
    (tmp_path / "me.png").write_bytes(picture(1))
    command = [str(BIN / "face-avatar"), "generate", "me.png", "--json", "--url", fake.url]
    terminal, stderr = pty.openpty()
    try:
        environment = os.environ | {"FACE_AVATAR_TOKEN": TOKEN, "TERM": "xterm"}
        done = subprocess.run(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr, env=environment, timeout=60, check=True
        )
        assert json.loads(done.stdout)["status"] == "SUCCESS"
        seen = os.read(terminal, 10_000)
        assert b"task " in seen
        assert b"queued" in seen
    finally:
        os.close(terminal)
        os.close(stderr)


def test_the_avatars_of_an_earlier_task_are_called_after_it(generate: Generate, fake: FakeService) -> None:
    generate("me.png", "-o", "first")
    generate("https://example.org/you.jpg?size=1", "-o", "first")
    of_a_file, of_a_url = fake.tasks
    assert generate("--task", of_a_file, "-o", "again").code == 0
    assert generate("--task", of_a_url, "-o", "again").code == 0
    assert {path.name for path in Path("again").iterdir()} == {f"{of_a_file}-7.png", "you-7.png"}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["me.png", "--task", "t"],
        ["--task", "t", "--seed", "0"],
        ["--task", "t", "--no-wait"],
        ["me.png", "--format", "gif"],
        [".", "me.png"],
        [".", "--task", "t"],
        [".", "--json"],
        [".", "-o", "."],
    ],
)
def test_what_generate_cannot_mean_is_refused(generate: Generate, fake: FakeService, arguments: list[str]) -> None:
    assert generate(*arguments).code == 2
    assert fake.seen == []


def test_the_fields_that_the_service_refuses_are_listed_one_a_line(generate: Generate, fake: FakeService) -> None:
    fields = [{"field": "batch", "message": "must be [at most] 8"}, {"field": "seed", "message": "too low"}]
    data = {"message": "The request is not valid.", "fields": fields}
    body = envelope(error="Invalid Request", error_data=data, status="FAILED")
    fake.faults.append(lambda _: fake_service.Answer(422, body))
    done = generate("me.png")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        "error: Invalid Request: The request is not valid.",
        "  batch: must be [at most] 8",
        "  seed: too low",
    ]
    assert not Path("avatars").exists()


def test_a_failed_task_is_an_error_and_its_envelope_still_json(generate: Generate, fake: FakeService) -> None:
    task_id = json.loads(generate("me.png", "--json").out)["task_id"]
    failure = {"error": "Face Consistent Error", "error_data": {"message": "No face."}, "status": "FAILED"}
    fake.tasks[task_id] |= failure | {"output": {}}
    fake.looks = 0
    done = generate("--task", task_id, "--json")
    assert (done.code, done.err) == (1, "error: Face Consistent Error: No face.\n")
    assert json.loads(done.out)["error"] == "Face Consistent Error"


def test_a_withheld_image_is_told_and_the_others_written(generate: Generate, fake: FakeService) -> None:
    task_id = json.loads(generate("me.png", "--json", "--batch", "2").out)["task_id"]
    output = fake.tasks[task_id]["output"]
    output["result"][0] = output["low_res_urls"][0] = None
    done = generate("--task", task_id, "-o", "again")
    assert done.out.startswith("withheld by the safety stage  seed 7")
    assert [path.name for path in Path("again").iterdir()] == [f"{task_id}-8.png"]


def test_without_a_service_there_is_a_hint_and_no_traceback(generate: Generate) -> None:
    done = generate("me.png", url=f"http://127.0.0.1:{free_port()}")
    assert done.code == 1
    assert done.err.startswith("error: http://127.0.0.1:")
    assert "face-avatar serve" in done.err
    assert "Traceback" not in done.err


def test_the_token_is_that_of_the_option_the_environment_or_a_file(
    generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Unauthorized" in generate("me.png", "--token", "wrong").err
    monkeypatch.delenv("FACE_AVATAR_TOKEN")
    assert generate("me.png", "--token", TOKEN).code == 0
    Path("data").mkdir()
    Path("data/token").write_text(f"{TOKEN}\n")
    assert generate("me.png", "--token-file", "data/token").code == 0
    monkeypatch.setenv("FACE_AVATAR_DATA_DIR", "data")
    assert generate("me.png").code == 0


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_token_file_that_holds_none_is_told(
    generate: Generate, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.delenv("FACE_AVATAR_TOKEN")
    if content is not None:
        Path("token").write_bytes(content)
    done = generate("me.png", "--token-file", "token")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "token" in done.err


def test_a_folder_that_cannot_be_written_is_told(generate: Generate) -> None:
    done = generate("me.png", "-o", "me.png")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: me.png/me-7.png: ")


def test_whoever_interrupts_a_wait_is_told_how_to_fetch_the_avatars_later(
    generate: Generate, fake: FakeService, tmp_path: Path, poll: Callable[..., Any]
) -> None:
    fake.looks, fake.streams = 1_000_000, False
    command = [str(BIN / "face-avatar"), "generate", "me.png", "-o", "my avatars", "--url", fake.url]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            poll(lambda: fake.reads, 60)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    fake.looks = 0
    again = shlex.split(said.strip().partition("later: ")[2])
    assert again[:2] == ["face-avatar", "generate"]
    assert generate(*again[2:-2]).code == 0
    assert again[-2:] == ["--url", fake.url]
    (task_id,) = fake.tasks
    assert [path.name for path in Path("my avatars").iterdir()] == [f"{task_id}-7.png"]


def test_generate_waits_where_the_service_is_busy(generate: Generate, fake: FakeService) -> None:
    fake.faults.append(refused(503, "Overloaded", Retry_After="0"))
    assert generate("me.png").code == 0
    assert len(fake.tasks) == 1


@pytest.mark.slow
@pytest.mark.ray
def test_the_demo_writes_avatars_of_the_asked_photo(tmp_path: Path) -> None:
    (tmp_path / "me.png").write_bytes(photo_files()["hanks.png"])
    done = run("demo", "me.png", "--batch", "2", "--seed", "5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    avatars = sorted((tmp_path / "avatars").iterdir())
    assert [path.name for path in avatars] == ["me-5.png", "me-6.png"]
    assert [Image.open(path).size for path in avatars] == [(512, 512)] * 2
    assert "diffusion" in done.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_the_demo_says_what_is_wrong_with_a_photo(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(photo_files()["cat.png"])
    done = run("demo", "cat.png", cwd=tmp_path)
    assert done.returncode == 1
    assert "Face Consistent Error" in done.stderr
    assert not (tmp_path / "avatars").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_start_leaves_no_process_behind(
    tmp_path: Path, poll: Callable[..., Any], number: signal.Signals
) -> None:
    command = [str(BIN / "face-avatar"), "serve", "--port", str(free_port()), "--data-dir", str(tmp_path / "data")]
    with running(command, tmp_path) as process:
        family = poll(lambda: psutil.Process(process.pid).children(recursive=True)[3:], START_S)
        process.send_signal(number)
        assert process.wait(STOP_S) == 0
        poll(lambda: not any(member.is_running() for member in family))
    assert (tmp_path / "log").read_text() == "Stopped.\n"


@pytest.mark.slow
@pytest.mark.ray
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
