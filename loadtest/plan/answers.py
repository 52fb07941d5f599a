"""What a simulation says: figures of the whole time, and of each ten minutes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from loadtest.plan.ledger import WINDOW_S
from loadtest.plan.scaled_service import ScaledService

SHOWN_WINDOWS = 24
ORACLE = "oracle"  # the name of the run that others are held against


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles over answered requests, seconds; None where there are none."""

    p50_s: float | None
    p95_s: float | None
    p99_s: float | None

    @classmethod
    def of(cls, latencies_s: Sequence[float]) -> "Latency":
        """Of any number of requests."""
        if not latencies_s:
            return cls(None, None, None)
        return cls(*(round(float(value), 3) for value in np.percentile(latencies_s, (50, 95, 99))))


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """Means over ten minutes, and the p95 of the requests that were answered in them."""

    begins_s: float
    replicas: float
    nodes: float
    waiting_images: float
    p95_s: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. Counts are images where they do not say requests."""

    fleet: str
    requests: int
    images: int
    drawn: int
    refused: Mapping[str, int]
    late: int
    synchronous: Latency
    queued: Latency
    requests_at_zero: int  # came when no generator ran
    replica_starts: int
    deaths: int
    model_loads: int  # while requests waited for the model
    most_replicas: float
    gpu_hours: float
    idle_share: float  # of the paid GPU time, starts included
    cost: float
    cost_per_1000: float | None
    windows: Sequence[WindowFigures]

    @classmethod
    def of(cls, fleet: str, run: ScaledService[Any, Any]) -> "Figures":
        """The figures of a simulation that has ended."""
        ledger, generators = run.ledger, run.generators
        windows = [
            WindowFigures(
                index * WINDOW_S,
                window.running / max(1, window.samples),
                window.nodes / max(1, window.samples),
                window.waiting / max(1, window.samples),
                Latency.of(window.latencies_s).p95_s,
            )
            for index, window in enumerate(run.windows)
        ]
        gpu_s = run.gpu_hours * 3600
        return cls(
            fleet, ledger.requests, ledger.images, ledger.drawn, dict(ledger.refused), ledger.late,
            Latency.of(ledger.synchronous_s), Latency.of(ledger.queued_s), ledger.met_cold_start,
            generators.fleet.starts, generators.fleet.deaths, generators.model_loads,
            max((window.replicas for window in windows), default=0.0), run.gpu_hours,
            1 - min(1.0, generators.busy_s / gpu_s) if gpu_s else 0.0, run.cost,
            1000 * run.cost / ledger.drawn if ledger.drawn else None, windows,
        )  # fmt: skip

    @property
    def failed_share(self) -> float:
        """Images that were refused or late, of all."""
        return (sum(self.refused.values()) + self.late) / self.images if self.images else 0.0

    def is_as_good(self, p95_s: float, failed_share: float) -> bool:
        """Whether synchronous requests (or else the queued ones) are answered as soon, and as few images fail."""
        latency = self.synchronous if self.synchronous.p95_s is not None else self.queued
        return latency.p95_s is not None and latency.p95_s <= p95_s and self.failed_share <= failed_share


@dataclass(frozen=True, slots=True)
class Setting:
    """What the figures rest on."""

    load: str
    mode: str  # exact or fleet
    config: str
    seed: int
    curves: Sequence[str]
    prices: str
    currency: str
    starts: Mapping[str, float]
    assumed: Sequence[str]  # what nobody has measured


def as_json(setting: Setting, runs: Sequence[Figures], cpu_s: float) -> dict[str, Any]:
    """All of it; `cpu_s` is how long the first run took a core."""
    return {"setting": asdict(setting), "runs": [asdict(run) for run in runs], "cpu_s": round(cpu_s, 2)}


def rows(setting: Setting, runs: Sequence[Figures]) -> dict[str, list[str]]:
    """The cells of each line of the table, one for each run."""
    return {
        "GPU-hours": [f"{run.gpu_hours:,.1f}" for run in runs],
        f"cost, {setting.currency}": [f"{run.cost:,.2f}" for run in runs],
        f"cost of 1,000 images, {setting.currency}": [_number(run.cost_per_1000) for run in runs],
        "GPU time idle": [f"{run.idle_share:.0%}" for run in runs],
        **_against_oracle(runs),
        "replicas, most in ten minutes": [f"{run.most_replicas:.1f}" for run in runs],
        "requests, s: p50 / p95 / p99": [_latency(run.synchronous) for run in runs],
        "queued ones, s": [_latency(run.queued) for run in runs],
        "p95 of ten minutes, s: median / highest": [_p95_of_windows(run) for run in runs],
        "images": [f"{run.images:,}" for run in runs],
        "refused": [_refused(run) for run in runs],
        "late": [f"{run.late:,}" for run in runs],
        "requests while no generator ran": [f"{run.requests_at_zero:,}" for run in runs],
        "starts of replicas / deaths": [f"{run.replica_starts:,} / {run.deaths:,}" for run in runs],
        "models loaded for a request": [f"{run.model_loads:,}" for run in runs],
    }


def _against_oracle(runs: Sequence[Figures]) -> dict[str, list[str]]:
    """A line, where there is an oracle."""
    oracle = next((run for run in runs if run.fleet == ORACLE), None)
    return {"cost, times the oracle's": [f"{run.cost / oracle.cost:.2f}" for run in runs]} if oracle else {}


def summary(setting: Setting, runs: Sequence[Figures]) -> Table:
    """A column for each run."""
    table = Table("", *(run.fleet for run in runs), title=f"{setting.load}; {setting.config}; mode {setting.mode}")
    for name, cells in rows(setting, runs).items():
        table.add_row(name, *cells)
    return table


def basis(setting: Setting) -> list[str]:
    """What the figures rest on, a line each."""
    return [
        f"Prices: {setting.prices}.",
        f"Step times: {'; '.join(setting.curves)}.",
        f"Assumed, measured by nobody: {', '.join(setting.assumed) or 'nothing'}.",
    ]


def over_time(run: Figures) -> Table:
    """At most a day's hours of a run: means, and the highest p95 of their ten minutes."""
    table = Table(
        "from", "replicas", "nodes", "waiting images", "p95 with queued ones, s", title=f"{run.fleet}, over time"
    )
    step = max(1, -(-len(run.windows) // SHOWN_WINDOWS))
    for first in range(0, len(run.windows), step):
        windows = run.windows[first : first + step]
        means = (
            float(np.mean([getattr(window, name) for window in windows]))
            for name in ("replicas", "nodes", "waiting_images")
        )
        p95_s = max((window.p95_s for window in windows if window.p95_s is not None), default=None)
        table.add_row(_moment(windows[0].begins_s), *(f"{mean:.1f}" for mean in means), _number(p95_s))
    return table


def _moment(seconds: float) -> str:
    day, second = divmod(int(seconds), 86400)
    moment = f"{second // 3600:02}:{second % 3600 // 60:02}"
    return f"day {day + 1}, {moment}" if day else moment


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _latency(latency: Latency) -> str:
    if latency.p50_s is None:
        return "-"
    return " / ".join(f"{value:.1f}" for value in (latency.p50_s, latency.p95_s, latency.p99_s) if value is not None)


def _p95_of_windows(run: Figures) -> str:
    p95_s = [window.p95_s for window in run.windows if window.p95_s is not None]
    return f"{np.median(p95_s):.1f} / {max(p95_s):.1f}" if p95_s else "-"


def _refused(run: Figures) -> str:
    total = sum(run.refused.values())
    reasons = ", ".join(f"{reason} {images:,}" for reason, images in sorted(run.refused.items()))
    return f"{total:,} ({reasons})" if reasons else "0"
