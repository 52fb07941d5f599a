"""CPU time and private memory of the processes of a service on this machine."""

import contextlib
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil

KINDS = {
    r"ray::.*:AvatarIngress": "ingress",
    r"ray::.*:AvatarWorker": "worker",
    r"ray::.*:FaceEmbedder": "embedder",
    r"ray::.*:AvatarGenerator": "generator",
    r"ray::.*:BackgroundRemover": "remover",
    r"ray::.*:EmbeddedValkey": "broker's owner",
    r"ray::ProxyActor": "proxy",
    r"ray::ServeController": "controller",
    r".*serve_app\.(photos|provenance|sandbox)\.": "decoder",
    r".*valkey-server|.*redis-server": "broker",
    r".*raylet": "raylet",
    r".*gcs_server": "GCS",
}
OTHERS = "the rest of Ray"


def processes() -> Iterator[tuple[str, psutil.Process]]:
    """The kind of each descendant process."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            title = command if command.startswith("ray::") else f"{Path(command.split(' ')[0]).name} {command}"
            yield next((kind for pattern, kind in KINDS.items() if re.match(pattern, title)), OTHERS), process


def cpu_s() -> Counter[str]:
    """CPU seconds used so far by kind of process."""
    used: Counter[str] = Counter()
    for kind, process in processes():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used[kind] += times.user + times.system
    return used


def memory_mb() -> dict[tuple[str, int], float]:
    """Private memory of each process by kind and id: shared pages are not counted."""
    found = {}
    for kind, process in processes():
        with contextlib.suppress(psutil.Error):
            found[kind, process.pid] = process.memory_full_info().uss / 1e6
    return found


class MemorySamples:
    """The memory of each process over time: (seconds since the start, MB) by kind and id."""

    def __init__(self, every_s: float) -> None:
        self.samples: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
        self._every_s = every_s
        self._started = time.monotonic()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Takes samples while the block runs."""
        stop = threading.Event()

        def look() -> None:
            while not stop.wait(self._every_s):
                for process, mb in memory_mb().items():
                    self.samples[process].append((time.monotonic() - self._started, mb))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def largest_mb(self) -> dict[tuple[str, int], float]:
        """The largest sample of each process, by kind and id."""
        return {process: max(mb for _at, mb in samples) for process, samples in self.samples.items()}
