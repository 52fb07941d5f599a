"""Programs for Node with the client of the service, as somebody who downloaded it writes them."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serve_app.api.playground import CLIENT

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no Node is installed (Debian: apt-get install nodejs)")
TIMEOUT_S = 300
IMPORT = 'import { FaceAvatarClient, FaceAvatarError, isFinished } from "./client.js";\n'


def run_node(folder: Path, program: str, **environment: str) -> Any:
    """What a program prints as JSON last; `folder` is where it runs, with the client in it."""
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "client.js").write_bytes((CLIENT / "client.js").read_bytes())
    (folder / "program.js").write_text(program)
    assert NODE is not None
    done = subprocess.run(
        [NODE, "program.js"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None
