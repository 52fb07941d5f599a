"""Scrapes the service's metrics under load from Ray's own exporters; needs no Prometheus server."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

EVERY_S = 2.0
TIMEOUT_S = 5.0
KEPT = ("ray_avatar_", "ray_serve_deployment_replica_healthy", "ray_serve_autoscaling_target_replicas")
ROWS = "ray_avatar_step_rows_bucket{"
LEFT_OUT = "_bucket{"  # of all other histograms: percentiles are computed from the answers, which are exact

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Series:
    """One sample of one process: its name without Ray's prefix, and its labels."""

    name: str
    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of all nodes at one moment."""

    at: float  # unix seconds
    nodes: int  # that answered
    series: tuple[Series, ...]


def exporters() -> list[str]:
    """The metrics page of every node of the cluster that this process started."""
    import ray  # imported here: reading a report needs no Ray

    nodes = [node for node in ray.nodes() if node["Alive"] and node.get("MetricsExportPort")]
    return [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes]


def parsed(page: str) -> Iterator[Series]:
    """Parses a page in Prometheus' text format; drops the samples that are not used."""
    kept = "".join(
        line
        for line in page.splitlines(keepends=True)
        if line.startswith(ROWS) or (line.startswith(KEPT) and LEFT_OUT not in line)
    )
    for family in text_string_to_metric_families(kept):
        for sample in family.samples:
            yield Series(sample.name.removeprefix("ray_"), sample.labels, sample.value)


class Scraper:
    """Scrapes all exporters periodically on its own thread while the `with` block runs."""

    def __init__(self, pages: Callable[[], Sequence[str]]) -> None:
        self._pages = pages
        self._scrapes: list[Scrape] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraper", daemon=True)

    def __enter__(self) -> "Scraper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def scrapes(self) -> tuple[Scrape, ...]:
        """Oldest first; complete once the `with` block has ended."""
        return tuple(self._scrapes)

    def _run(self) -> None:
        with httpx.Client(timeout=TIMEOUT_S) as client:
            while not self._over.is_set():
                started = time.monotonic()
                if pages := self._pages():
                    self._scrapes.append(_scrape(client, pages))
                self._over.wait(max(0.0, EVERY_S - (time.monotonic() - started)))


def _scrape(client: httpx.Client, pages: Iterable[str]) -> Scrape:
    """Skips nodes that do not answer: they have left, or answer the next scrape."""
    at, nodes, series = time.time(), 0, list[Series]()
    for page in pages:
        with contextlib.suppress(httpx.HTTPError):
            series += parsed(client.get(page).raise_for_status().text)
            nodes += 1
    return Scrape(at, nodes, tuple(series))
