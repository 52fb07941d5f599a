"""How long a replica takes from nothing to ready, by part."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ray.serve import metrics

Part = Literal["process", "import", "load", "warm"]


class ColdStart:
    """One replica's start. Made first in a deployment's constructor, published last.

    `process` is time of the processor, not of the clock: Ray may have had the process ready long before. It holds
    Python, Ray and the modules of the graph. Serve's own startup latency has the whole by the clock.
    """

    def __init__(self) -> None:
        self.seconds: dict[Part, float] = {"process": time.process_time()}

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Counts the block as one of the parts: the libraries, the weights, or the first run of a model."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def publish(self) -> None:
        """As counters: their quotient is exact, while Ray takes the sums of histograms from the middles of buckets."""
        of_parts = metrics.Counter("avatar_cold_start_seconds_total", "Time of the starts of replicas.", ("part",))
        for part, seconds in self.seconds.items():
            if seconds > 0:
                of_parts.inc(seconds, {"part": part})
        metrics.Counter("avatar_cold_starts_total", "Replicas that started.").inc()
