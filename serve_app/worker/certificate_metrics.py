"""A gauge of when the certificate that signs content credentials expires."""

import asyncio
import logging
import time

from ray.serve import metrics
from redis.exceptions import RedisError

from serve_app.provenance.signing import Provenance

READ_EVERY_S = 600.0

log = logging.getLogger(__name__)


class CertificateMetrics:
    """Every worker reports the same value: aggregate it with `min`."""

    name = "expiry of certificates"
    every_s = 5.0  # Ray forgets a gauge that was not set for 20 s

    def __init__(self, provenance: Provenance) -> None:
        self._provenance = provenance
        self._expires_at: float | None = None
        self._read_at = float("-inf")  # by the monotonic clock
        self._gauge = metrics.Gauge(
            "avatar_certificate_expiry_timestamp_seconds", "When the signing certificate expires, unix seconds."
        )

    async def run_once(self) -> None:
        """Set the gauge; a certificate that cannot be read has none."""
        if time.monotonic() - self._read_at >= READ_EVERY_S:
            self._read_at = time.monotonic()
            self._expires_at = await asyncio.to_thread(self._read)
        if self._expires_at is not None:
            self._gauge.set(self._expires_at)

    def _read(self) -> float | None:
        try:
            return self._provenance.expires_at()
        except (OSError, ValueError, RedisError) as error:
            log.warning("the signing certificate cannot be read: %s", error)
            return None
