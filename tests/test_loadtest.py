import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.auth import TOKEN_FILE
from tests.conftest import Service

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_short_load_test_meets_no_wrong_answer(service: Service) -> None:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"]
    command += ["--host", service.url, "--users", "4", "--spawn-rate", "4", "--run-time", "30s"]
    command += ["--stop-timeout", "60s"]
    token = service.data_dir / TOKEN_FILE
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"FACE_AVATAR_TOKEN_FILE": str(token)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "one avatar" in done.stderr + done.stdout
