import re
import shlex
import subprocess
import tomllib
import venv
from pathlib import Path

import pytest
import ray
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "serve_app" / "config"
INSTALL_TIMEOUT_S = 1200

# The library that the script leaves behind, and one of the package's own models on it.
LOOK = """
from importlib.metadata import packages_distributions
import onnxruntime
from deployments.config import WEIGHTS
assert packages_distributions()["onnxruntime"] == ["onnxruntime-gpu"], packages_distributions()["onnxruntime"]
assert "CUDAExecutionProvider" in onnxruntime.get_available_providers()
onnxruntime.InferenceSession(WEIGHTS / "face" / "encoder.onnx", providers=["CPUExecutionProvider"])
"""


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (CONFIG / "Dockerfile").read_text()


def test_the_image_has_the_ray_that_the_package_is_tested_with_and_does_not_run_as_root(dockerfile: str) -> None:
    assert re.search(r"^FROM (\S+)$", dockerfile, re.MULTILINE)[1] == f"rayproject/ray:{ray.__version__}-py311-gpu"  # type: ignore[index]
    assert re.findall(r"^USER (\w+)$", dockerfile, re.MULTILINE)[-1] == "ray"


def test_all_that_the_image_copies_is_there_and_it_installs_by_the_script(dockerfile: str) -> None:
    for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE):
        *sources, _target = [word for word in shlex.split(line) if not word.startswith("--")]
        assert all((ROOT / source).exists() for source in sources)
    assert re.search(r"^RUN serve_app/config/install\.sh gpu python\b", dockerfile, re.MULTILINE)


def test_nobody_is_root_by_sudo_in_the_image(dockerfile: str) -> None:
    assert re.search(r"^.*apt-get purge -y .*\bsudo\b", dockerfile, re.MULTILINE)


def test_the_lock_has_every_requirement_with_its_hashes_and_one_onnxruntime() -> None:
    locked: dict[str, Version] = {}
    for line in (CONFIG / "requirements.lock").read_text().replace("\\\n", "").splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = line.split()
            name, version = requirement.split("==")
            assert hashes, name
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), name
            locked[name] = Version(version)
    assert "onnxruntime" not in locked
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["gpu"], *extras["heic"]):
        requirement = Requirement(text)
        if requirement.name != "onnxruntime":
            name = requirement.name
            assert locked[name] in requirement.specifier, f"{text}: make requirements.lock anew, as its head says"


@pytest.mark.slow
def test_the_script_leaves_one_onnxruntime_the_one_with_cuda(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    script = [str(CONFIG / "install.sh"), "cpu", python]
    subprocess.run(script, check=True, timeout=INSTALL_TIMEOUT_S, cwd=tmp_path)
    subprocess.run([python, "-c", LOOK], check=True, timeout=120, cwd=tmp_path)
