"""LiteLLM, a gateway to OpenAI's API, against a real local Serve; in an environment of its own, for it pins much."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.photos.sample import sample_photo
from tests.support.service import Service

pytestmark = pytest.mark.slow

NO_PYPI = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError")
PROGRAM = """
import asyncio, json, sys
import litellm

url, token, photo = sys.argv[1:]
asked = {"model": "openai/face-avatar", "prompt": "", "api_base": f"{url}/v1", "api_key": token, "size": "256x256"}

def told(answer):
    return {"pictures": [picture.b64_json for picture in answer.data], "tokens": answer.usage.output_tokens}

with open(photo, "rb") as file:
    answers = [told(litellm.image_edit(image=file, n=2, **asked))]
with open(photo, "rb") as file:
    answers.append(told(asyncio.run(litellm.aimage_edit(image=file, **asked))))
try:
    with open(photo, "rb") as file:
        litellm.image_edit(image=file, **asked | {"size": "1x1"})
except Exception as error:
    answers.append({"error": str(error), "status": getattr(error, "status_code", None)})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def python_with_litellm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("litellm")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "litellm"], capture_output=True, text=True, check=False
    )
    if installed.returncode and any(problem in installed.stderr for problem in NO_PYPI):
        pytest.skip("PyPI cannot be reached")
    assert installed.returncode == 0, installed.stderr
    return python


def test_litellm_edits_images_and_is_told_what_is_refused(service: Service, python_with_litellm: Path) -> None:
    token = service.client.headers["Authorization"].removeprefix("Bearer ")
    command = [python_with_litellm, "-c", PROGRAM, service.url, token, sample_photo()]
    offline = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=offline)
    assert ran.returncode == 0, ran.stderr
    several, one, refused = json.loads(ran.stdout.splitlines()[-1])
    require_pictures(several, 2)
    require_pictures(one, 1)
    assert refused["status"] in (400, 422)
    assert "size" in refused["error"]


def require_pictures(answer: dict[str, Any], count: int) -> None:
    assert len(answer["pictures"]) == count
    assert all(len(picture) > 10_000 for picture in answer["pictures"])
    assert answer["tokens"] == count * 16 * 16
