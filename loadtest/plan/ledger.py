"""What became of the requests of a run, and how it was over time."""

from collections.abc import MutableSequence
from dataclasses import dataclass, field

WINDOW_S = 600.0


@dataclass(slots=True)
class Window:
    """Ten minutes of the day. Sums over `samples` looks, and what ended in them."""

    samples: int = 0
    running: int = 0  # generators
    nodes: int = 0
    waiting: int = 0  # images without a place in a replica, and images of queued tasks
    failed: int = 0  # requests that were refused or late
    latencies_s: MutableSequence[float] = field(default_factory=list)


@dataclass(slots=True)
class Ledger:
    """What became of the images of a load, and of its requests."""

    images: int = 0  # asked for
    drawn: int = 0
    late: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # by reason
    requests: int = 0
    met_cold_start: int = 0  # requests that came when no generator ran
    synchronous_s: MutableSequence[float] = field(default_factory=list)  # latencies of requests that were answered
    queued_s: MutableSequence[float] = field(default_factory=list)

    def refuse(self, reason: str, images: int) -> None:
        """Count a refusal."""
        self.refused[reason] = self.refused.get(reason, 0) + images
