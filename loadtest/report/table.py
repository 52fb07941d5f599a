"""The figures as a text table, for the terminal and the report."""

from collections.abc import Iterator

from loadtest.metrics.figures import Figures, KindFigures, Latency

HEAD = ("group", "kind", "answers", "wrong", "refused", "p50", "p95", "p99", "images")


def rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    """The cells of each kind, in the columns of `HEAD`; that of `images` is empty for kinds without images."""
    for kind in figures.kinds:
        yield _row(kind)


def summary(figures: Figures) -> dict[str, str]:
    """The headline figures."""
    return {
        "requests": f"{figures.requests}",
        "wrong": f"{figures.wrong}",
        "refused": f"{figures.refused}",
        "images": f"{figures.images}",
        "images a second": f"{figures.images_per_s:.2f}",
        "requests a second": f"{figures.requests_per_s:.2f}",
    }


def duration(seconds: float | None) -> str:
    """Three digits at most: 7 ms, 0.35 s, 12.3 s."""
    if seconds is None:
        return "-"
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def _row(kind: KindFigures) -> tuple[str, ...]:
    counts = (kind.answers, kind.wrong, kind.refused)
    images = str(kind.images) if kind.images else ""
    return (kind.group, kind.kind, *map(str, counts), *_percentiles(kind.latency), images)


def _percentiles(latency: Latency) -> tuple[str, str, str]:
    return duration(latency.p50_s), duration(latency.p95_s), duration(latency.p99_s)
