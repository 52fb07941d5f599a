"""What the documents say: their commands run, or are named below with who else runs them, or why nobody can here."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from pydantic import BaseModel

from serve_app.api.playground import CLIENT
from serve_app.cli.replay import rounding_levels
from serve_app.cli.root import cli
from serve_app.photos.sample import sample_photo
from serve_app.schemas.requests import AvatarRequest, EffectiveRequest
from serve_app.schemas.responses import AvatarOutput, Envelope
from serve_app.settings import Settings
from tests.support.node import needs_node, run_node
from tests.support.service import Service
from tests.support.tolerance import assert_shows

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PAGES = ("curl", "python", "openai", "mcp", "typescript")  # a way of calling each
DOCUMENTS = (
    "README.md",
    "serve_app/README.md",
    "deployments/README.md",
    ".github/CONTRIBUTING.md",
    *(f"serve_app/api/docs/{page}.md" for page in PAGES),
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(
    r"(?<!`)`((?:\S+=\S+ )*(?:\.venv/bin/|python -m |face-avatar |ray |kubectl |serve (?:run|deploy))[^`\n]*)`"
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
KNOB = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*)`")

# Run below, against a service of this module.
RUN = (
    "TOKEN=",
    "URL=",
    "TASK_ID=",
    "curl ",
    ".venv/bin/face-avatar generate",
    ".venv/bin/face-avatar replay",
)

# Run by others: a file, or what is in it.
BY_OTHERS = {
    "python3 -m venv .venv && .venv/bin/pip install -e '.[heic]' && .venv/bin/face-avatar demo": ".ci/run",
    "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest -n 2": ".ci/run",
    ".ci/run": ".ci/run",
    ".venv/bin/pytest": ".ci/run",
    ".venv/bin/pip install torch==": ".ci/run",
    ".venv/bin/ruff ": ".ci/run",
    ".venv/bin/mypy": ".ci/run",
    ".venv/bin/lint-imports": ".ci/run",
    ".venv/bin/face-avatar serve": "tests/cli/test_cli.py",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.edge:middlewares .venv/bin/serve run": "tests/cli/test_cli.py",
    "face-avatar demo": "tests/cli/test_cli.py",
    "face-avatar serve": "tests/cli/test_cli.py",
    "face-avatar generate": "tests/cli/test_cli.py",
    "face-avatar mcp": "tests/api/test_mcp.py",
    "face-avatar doctor": "tests/cli/test_doctor.py",
    "face-avatar models": "tests/catalog/test_models.py",
    "face-avatar tasks": "tests/cli/test_operators.py",
    "face-avatar token": "tests/cli/test_operators.py",
    "face-avatar verify": "tests/provenance/test_provenance.py",
    "python -m loadtest.bench.": "loadtest/bench",
    "python -m loadtest.plan": "tests/loadtest/test_plan.py",
    ".venv/bin/python -m loadtest.plan": "tests/loadtest/test_plan.py",
    "python -m loadtest": "tests/loadtest/test_loadtest.py",
    ".venv/bin/python -m loadtest": "tests/loadtest/test_loadtest.py",
    "python -m tests.chaos": "tests/e2e/test_chaos.py",
    "python -m tests.frozen": "tests/test_frozen.py",
    "python -m deployments.embedded.training": "deployments/embedded/training",
}

# Not to be run here.
NEEDS = {
    "ray up": "an account with AWS",
    "ray exec": "an account with AWS",
    "ray down": "an account with AWS",
    "ray attach": "an account with AWS",
    "ray start": "a cluster; tests/support/production.py starts one on this machine",
    "ray status": "a cluster with an autoscaler",
    "python -m tests.cluster": "five to ten minutes of a machine that does nothing else",
    "ray get-auth-token": "a cluster; it writes into the home",
    "docker stop": "Docker",
    "kubectl ": "a Kubernetes cluster; tests/config/test_cluster_yaml.py holds the manifest against the schema",
    "serve deploy": "a cluster; tests/e2e/test_end_to_end.py deploys the same application",
    "serve run": "a whole service more; tests/cli/test_cli.py does it",
}


def page(name: str) -> Path:
    return ROOT / f"serve_app/api/docs/{name}.md"


def documents() -> list[Path]:
    return [ROOT / name for name in DOCUMENTS]


def blocks(document: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(document.read_text()) if kind == language]


def commands(document: Path) -> Iterator[str]:
    """Each command of its shell blocks, continued lines joined; then those within its sentences."""
    for block in blocks(document, "sh"):
        for line in re.sub(r"(\\|\|)\n\s*", lambda end: "" if end[1] == "\\" else "| ", block).splitlines():
            if command := re.sub(r"\s+#.*$", "", line).strip():
                yield command
    without_blocks = BLOCK.sub("", document.read_text())
    yield from INLINE.findall(without_blocks)


def written(*prefixes: str) -> list[str]:
    return [command for document in documents() for command in commands(document) if command.startswith(prefixes)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_run_or_said_why_not(document: str) -> None:
    known = (*RUN, *BY_OTHERS, *NEEDS)
    unknown = [command for command in commands(ROOT / document) if not command.startswith(known)]
    assert unknown == []


def test_what_is_said_to_run_commands_is_there() -> None:
    assert [place for place in BY_OTHERS.values() if not (ROOT / place).exists()] == []
    unused = [prefix for prefix in RUN if not written(prefix)]
    assert unused == []


@pytest.mark.parametrize("command", sorted(set(written("python -m ", ".venv/bin/python -m "))))
def test_a_module_that_a_document_starts_is_there(command: str) -> None:
    module = shlex.split(command.partition(" -m ")[2])[0]
    assert module.endswith(".NAME") or find_spec(module) is not None


def check_options(words: list[str]) -> None:
    """That there is such a command of ours, with these options."""
    found: Any = typer.main.get_command(cli)
    words = list(words)
    while words and hasattr(found, "commands"):
        name = words.pop(0)
        assert name in found.commands, name
        found = found.commands[name]
    options = {option for parameter in found.params for option in parameter.opts}
    assert [word for word in words if word.startswith("-") and word not in options] == []


@pytest.mark.parametrize("command", sorted(set(written("face-avatar ", ".venv/bin/face-avatar "))))
def test_a_command_of_ours_has_the_options_that_a_document_gives_it(command: str) -> None:
    check_options(shlex.split(command.partition("face-avatar ")[2]))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_links_to_is_there(document: str) -> None:
    path = ROOT / document
    assert [link for link in LINK.findall(path.read_text()) if not (path.parent / link).exists()] == []


def test_the_knobs_and_the_fields_in_the_readme_are_those_there_are() -> None:
    text = (ROOT / "README.md").read_text()
    deployments = text[text.index("| deployment | does") : text.index("Every image joins")]
    knobs = [name for row in deployments.splitlines()[2:] if row for name in KNOB.findall(row.split("|")[-2])]
    assert [name for name in knobs if not knob(name)] == []
    fields = text[text.index("| field | default, ") : text.index("## Five deployments")]
    named = {name for row in fields.splitlines()[2:] if row for name in KNOB.findall(row.split("|")[1])}
    assert named == AvatarRequest.model_fields.keys() | {"image"}


def knob(name: str) -> bool:
    """Whether a setting has this name."""
    model: type[BaseModel] = Settings
    for part in name.split("."):
        if part not in model.model_fields:
            return False
        inner: Any = model.model_fields[part].annotation
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else BaseModel
    return True


def test_the_answer_in_the_readme_is_one_of_this_version() -> None:
    (text,) = blocks(ROOT / "README.md", "json")
    answer = Envelope.model_validate_json(text)
    assert json.loads(text).keys() == Envelope.model_fields.keys()
    assert answer.input.keys() == EffectiveRequest.model_fields.keys()
    assert answer.output.keys() == AvatarOutput.model_fields.keys()


def test_agents_are_told_a_command_with_options_that_it_has() -> None:
    (text,) = blocks(page("mcp"), "json")
    (server,) = json.loads(text)["mcpServers"].values()
    assert server["command"].endswith("face-avatar")
    check_options(server["args"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photo = Image.open(sample_photo()).convert("RGB")
    photo.save(tmp_path / "me.jpg", quality=95)
    photo.rotate(4).save(tmp_path / "me-too.jpg", quality=95)
    return tmp_path


def as_here(text: str, service: Service) -> str:
    """A command of the README for this service, these programs and this photo."""
    for named, here in {
        "http://127.0.0.1:8000": service.url,
        "https://example.org/me.jpg": f"{service.photos}/astronaut.png",
        "https://example.org/me-too.jpg": f"{service.photos}/astronaut.png?again",
        "~/.face-avatar/token": shlex.quote(str(service.data_dir / "token")),
        ".venv/bin/": f"{BIN}/",
    }.items():
        text = text.replace(named, here)
    return text


def test_the_commands_of_the_readme_do_what_it_says(service: Service, folder: Path) -> None:
    text = [block for block in blocks(ROOT / "README.md", "sh") if block.startswith(RUN)]
    fails_on_errors = 'set -euo pipefail\ncurl() { command curl --fail "$@"; echo; }\n'
    script = fails_on_errors + as_here("\n".join(text), service)
    token = (service.data_dir / "token").read_text().strip()
    environment = os.environ | {"FACE_AVATAR_URL": service.url, "FACE_AVATAR_TOKEN": token}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"status":"SUCCESS"') == 2
    assert re.search("The same (pixels|picture) as then", done.stdout)
    assert "other weights" not in done.stdout
    assert {path.name for path in (folder / "avatars").iterdir()} == {
        "me-7.png", "me-8.png", "me-7.json", "me-8.json", "me-7-replay.png",
    }  # fmt: skip
    # The receipt is of an image amid another one, which may change its roundings.
    first, again = (folder / "avatars" / name for name in ("me-7.png", "me-7-replay.png"))
    assert rounding_levels(first, again.read_bytes()) is not None


def test_the_commands_of_the_page_about_curl_do_what_it_says(service: Service, folder: Path) -> None:
    script = as_here("set -euo pipefail\n" + "\n".join(blocks(page("curl"), "sh")), service)
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Image.open(folder / "avatar.png").size == (512, 512)
    statuses = re.findall(r'"status":"(\w+)"', done.stdout)
    assert statuses[:2] == ["SUCCESS"] * 2  # as JSON, and of several photos
    assert set(statuses[2:-5]) <= {"PENDING", "STARTED"}  # of the events, but for the last
    assert statuses[-5:] == ["SUCCESS", "SUCCESS", "SUCCESS", "FAILED", "SUCCESS"]
    assert done.stdout.endswith("[('face-avatar', [])]\n")


@pytest.mark.parametrize("name", ["python", "openai", "mcp"])
def test_the_programs_of_a_page_do_what_it_says(
    service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for program in blocks(page(name), "python"):  # what follows builds on what came before
        exec(as_here(program, service), names)
    printed = capsys.readouterr().out
    match name:
        case "python":
            assert [image[:4] for image in names["pictures"]] == [b"\x89PNG"] * 2
            assert names["both"].envelope["input"]["file_urls"] is not None
            assert (names["state"].status, names["finished"].status) == ("SUCCESS", "SUCCESS")
            assert "422 Invalid Request [{'field': 'style'" in printed
        case "openai":
            assert [image[:4] for image in names["pictures"]] == [b"\x89PNG"] * 2
            assert names["event"].type == "image_edit.completed"
            assert "422 invalid_request size\n['face-avatar']\n" in printed
            assert [len(answer.data) for answer in (names["both"], names["once"])] == [1, 1]
        case "mcp":
            assert printed.count("a thumbnail, image/webp") == 2
            assert len(names["both"].content) == len(names["again"].content) == 3
            assert "True Error executing tool make_avatars: Invalid Request" in printed


@needs_node
def test_the_programs_of_the_page_about_typescript_do_what_it_says(
    service: Service, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Node 20 runs them as they are, because they need no annotation; their types are those of test_typescript."""
    home = tmp_path_factory.mktemp("home")
    (home / ".face-avatar").mkdir()
    (home / ".face-avatar" / "token").write_bytes((service.data_dir / "token").read_bytes())
    script = as_here("set -euo pipefail\n" + "\n".join(blocks(page("typescript"), "sh")), service)
    subprocess.run(["bash", "-c", script], cwd=folder, check=True, timeout=60)
    assert (folder / "client.d.ts").read_text() == (CLIENT / "client.d.ts").read_text()
    program = as_here("\n".join(blocks(page("typescript"), "ts")), service)
    printed = run_node(folder, f"{program}\nconsole.log(JSON.stringify(finished.status));", HOME=str(home))
    assert printed == "SUCCESS"
    assert Image.open(folder / "avatar.png").size == (512, 512)


def test_what_is_less_like_than_was_asked_is_drawn_again(service: Service) -> None:
    quick = {"batch": 2, "num_inference_steps": 2, "width": 256, "height": 256, "seed": 5}
    output = service.make(**quick, min_similarity=1)["output"]
    assert [[attempt["seed"] for attempt in of_one] for of_one in output["attempts"]] == [[5, 7, 8], [6, 9, 10]]
    for index, attempts in enumerate(output["attempts"]):
        best = max(attempts, key=lambda attempt: attempt["face_similarity"] or -2)
        assert (output["seeds"][index], output["face_similarity"][index]) == tuple(best.values())
        assert output["receipts"][index]["seed"] == best["seed"]
    alone = service.make(**{**quick, "batch": 3, "seed": output["seeds"][1]})["output"]
    references = {str(seed): service.pixels(url) for seed, url in zip(alone["seeds"], alone["result"], strict=True)}
    assert_shows(service.pixels(output["result"][1]), str(output["seeds"][1]), references)
