"""What a request meets where there is no room left: on the disk of the results, in Ray's store of objects.

Both are really full: programs run with tiny file systems of their own, in a name space of mounts that ends with them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

IN_A_SMALL_WORLD = ["unshare", "--user", "--map-root-user", "--mount"]
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && exec "$3" -c "$4" "$2"'
TIMEOUT_S = 120


def may_mount() -> bool:
    return bool(shutil.which("unshare")) and not subprocess.run([*IN_A_SMALL_WORLD, "true"], check=False).returncode


pytestmark = pytest.mark.skipif(not may_mount(), reason="no file systems may be mounted here")


def run_with_little_room(program: str, folder: Path, size: str) -> list[str]:
    """The lines that a program prints; its first argument is a folder with so much room."""
    ran = subprocess.run(
        [*IN_A_SMALL_WORLD, "sh", "-c", MOUNT, "sh", size, str(folder), sys.executable, program],
        capture_output=True, text=True, timeout=TIMEOUT_S, env=os.environ | {"RAY_enable_open_telemetry": "0"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


STORE = """
import asyncio, os, sys
from pathlib import Path
from serve_app.errors import StoreError
from serve_app.schemas.errors import answer_to
from serve_app.backends.object_store import Results, StoreSettings, result_key
folder = Path(sys.argv[1])
results = Results.open(StoreSettings(), data_dir=folder, signing_key=b"key", ttl_s=60)
first, second = [result_key("018f0000-0000-7000-8000-000000000000", index, "png") for index in range(2)]

async def attempt(work):
    try:
        await work
        print("done")
    except StoreError as error:
        print(answer_to(error).status, error)

async def main():
    await attempt(results.put(first, b"x" * 200_000))
    await attempt(results.put(second, b"x" * 2_000_000))
    print(sum(path.is_file() for path in folder.rglob("*")))  # nothing is left of the second
    with (folder / "of somebody else").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    await attempt(results.check())
    await attempt(results.get(first))
    await attempt(results.delete([first]))
    await attempt(results.check())

asyncio.run(main())
sys.stdout.flush()
os._exit(0)  # an interpreter that ends right after a call of obstore may be aborted: PyO3/pyo3-async-runtimes issue 40
"""


def test_a_full_disk_is_a_store_that_says_so_and_takes_more_when_there_is_room(tmp_path: Path) -> None:
    full = "503 The store of the results is full."
    assert run_with_little_room(STORE, tmp_path, "1m") == ["done", full, "1", full, "done", "done", "done"]


OBJECTS = """
import asyncio, sys
import numpy as np, ray
from ray import serve
from deployments.types import Photo
from serve_app.errors import OverloadedError
from serve_app.schemas.errors import answer_to
from serve_app.pipeline.pipeline import AvatarPipeline
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False,
         _system_config={"automatic_object_spilling_enabled": False}, object_spilling_directory=sys.argv[1])
serve.start(proxy_location="Disabled")

class Embedder:
    def inspect(self, photo, used_s, face_model=None):
        return np.zeros(60 << 20, np.uint8)

stage = serve.deployment(Embedder).options(ray_actor_options={"num_cpus": 0.1}).bind()
handle = serve.run(stage, name="app", route_prefix=None)
held = [ray.put(np.zeros(34 << 20, np.uint8)) for _ in range(2)]
pipeline = AvatarPipeline(handle, handle, handle, None)

async def attempt(photo):
    try:
        print((await pipeline.inspect(photo)).nbytes >> 20)
    except OverloadedError as error:
        print(answer_to(error).status, error)

async def main():
    await attempt(Photo(np.zeros((4, 4, 3), np.uint8)))  # the answer has no room
    await attempt(Photo(np.zeros((4000, 4000, 3), np.uint8)))  # the question has none
    held.clear()
    await attempt(Photo(np.zeros((4, 4, 3), np.uint8)))

asyncio.run(main())
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="Ray keeps its objects elsewhere")
def test_a_full_store_of_objects_is_an_overload_that_passes(tmp_path: Path) -> None:
    full = "503 There is no memory for more pictures now."
    assert run_with_little_room(OBJECTS, tmp_path, "16m") == [full, full, "60"]
