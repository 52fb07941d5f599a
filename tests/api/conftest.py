"""The service that all tests over HTTP share."""

from collections.abc import Iterator

import pytest

from tests.support.service import Service, service_on


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory, photo_server: str) -> Iterator[Service]:
    """One for the whole room, since it takes ten seconds to start.

    Its processes report metrics every 5 s, not every 10; a gauge that was not set for twice as long is forgotten.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "5000")
        with service_on(tmp_path_factory.mktemp("service"), photo_server) as running:
            yield running
