"""Fixtures that several rooms share: a web server with photos, brokers."""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import polling
from tests.support.brokers import valkey_server
from tests.support.photo_server import photo_server as running_photo_server

EXIT_STATUS = pytest.StashKey[int | pytest.ExitCode]()
E2E = Path(__file__).with_name("e2e")
LONGEST_ID = 64

# Ray's workers let all else go first (nice 15): beside tests that only compute they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of two processes that wait for each other by spinning are slow
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def photo_server() -> Iterator[str]:
    """The URL of a web server with photos, and with what is not one."""
    with running_photo_server() as url:
        yield url


@pytest.fixture(scope="module")
def broker_program() -> str:
    return "valkey"


@pytest.fixture(scope="module")
def valkey(broker_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data directory of a broker that runs."""
    data_dir = tmp_path_factory.mktemp(broker_program)
    with valkey_server(data_dir):
        yield data_dir


@pytest.fixture(scope="session")
def poll() -> Callable[..., Any]:
    return polling.poll


def starts_ray(item: pytest.Item) -> bool:
    return item.get_closest_marker("ray") is not None


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Files and long texts are named by their argument. Two processes must agree on names; files may hold a time."""
    return argname if isinstance(val, str | bytes) and len(val) > LONGEST_ID else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray: all journeys, whatever asks a service, and what says so itself.

    With `-n 2` one process has all of that, since two services at once are too much for two cores, and begins with it;
    the other has the rest, a module at a time.
    """
    for item in items:
        if E2E in item.path.parents or "service" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
        item.add_marker(pytest.mark.xdist_group("ray" if starts_ray(item) else item.location[0]))
    items.sort(key=starts_ray, reverse=True)


def pytest_collection_finish() -> None:
    """What is there by now stays: no collection in a test need look through it, which takes a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[EXIT_STATUS] = session.exitstatus


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End without taking the interpreter down: threads of a Ray that was used may crash while it goes."""
    status = config.stash.get(EXIT_STATUS, None)
    if status is None or "ray" not in sys.modules:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
