"""Cold start time of a replica, by part."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from ray.serve import metrics

Part = Literal["process", "import", "weights", "adapter", "lora", "load", "compile", "warm"]

log = logging.getLogger("ray.serve")  # the logger whose lines Serve keeps


class ColdStart:
    """The start of one replica. Created first in a deployment's constructor, published last.

    `process` is CPU time, not wall time: Ray may have started the process long before. It covers Python, Ray and the
    modules of the graph. `weights`, `adapter` and `lora` are of a diffusion model, `load` is the rest of its load or
    all of another model's. Serve's own startup latency covers the whole start in wall time.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.seconds: dict[Part, float] = {"process": time.process_time()}

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Adds the block's duration to a part, without that of other parts inside of it."""
        started, others_s = self._clock(), sum(self.seconds.values())
        try:
            yield
        finally:
            inner_s = sum(self.seconds.values()) - others_s
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - started - inner_s

    def publish(self) -> None:
        """As counters: their quotient is exact, while Ray estimates the sums of histograms from bucket midpoints."""
        of_parts = metrics.Counter("avatar_cold_start_seconds_total", "Time of the starts of replicas.", ("part",))
        log.info("ready; %s", ", ".join(f"{part} {seconds:.1f} s" for part, seconds in self.seconds.items()))
        for part, seconds in self.seconds.items():
            if seconds > 0:
                of_parts.inc(seconds, {"part": part})
        metrics.Counter("avatar_cold_starts_total", "Replicas that started.").inc()
