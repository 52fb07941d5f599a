"""When the signing certificate expires, as operators see it."""

import asyncio
import time
from pathlib import Path

import pytest

from serve_app.backends.redis import BrokerSettings
from serve_app.provenance.certificates import LIFETIME
from serve_app.provenance.signing import BUNDLE_FILE, Provenance, ProvenanceSettings
from serve_app.worker.certificate_metrics import CertificateMetrics


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the gauge was set to, in three runs of which the certificate can be read at the second."""
    watch = CertificateMetrics(Provenance(ProvenanceSettings(), BrokerSettings(), tmp_path))
    told: list[float] = []
    monkeypatch.setattr(watch._gauge, "set", told.append)
    monkeypatch.setattr("serve_app.worker.certificate_metrics.READ_EVERY_S", 0.0)
    (tmp_path / BUNDLE_FILE).write_text("broken")
    asyncio.run(watch.run_once())
    (tmp_path / BUNDLE_FILE).unlink()
    asyncio.run(watch.run_once())
    monkeypatch.setattr("serve_app.worker.certificate_metrics.READ_EVERY_S", 3600.0)
    (tmp_path / BUNDLE_FILE).write_text("broken")
    asyncio.run(watch.run_once())
    return told


def test_the_gauge_is_the_end_of_the_certificate_and_stays_until_it_is_read_anew(told: list[float]) -> None:
    assert len(told) == 2  # nothing where it cannot be read
    assert told[0] == told[1]
    assert told[0] - time.time() == pytest.approx(LIFETIME.total_seconds(), rel=0.01)
