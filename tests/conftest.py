"""Fixtures that several rooms share: a web server with photos, brokers."""

import atexit
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray: all journeys, and whatever asks a service."""
    for item in items:
        if E2E in item.path.parents or "service" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")


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
