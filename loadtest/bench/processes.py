"""CPU time and private memory of the processes of a service on this machine."""

import contextlib
import re
from collections import Counter
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
            found[kind, process.pid] = process.memory_full_info().uss / 2**20
    return found
