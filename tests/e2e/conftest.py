"""A service of its own for each journey: some end its processes, some look for what others left."""

from collections.abc import Iterator

import pytest

from tests.support.service import Service, service_on


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, photo_server: str) -> Iterator[Service]:
    with service_on(tmp_path_factory.mktemp("service"), photo_server) as running:
        yield running
