"""The answers as one HTML page that needs no other file and no network."""

from collections.abc import Iterator, Sequence
from html import escape
from string import Template

from loadtest.plan.answers import Figures, Setting, WindowFigures, rows
from loadtest.report.plot import Plot, stepped, time_scales
from loadtest.report.report import TEMPLATE, figure_of
from loadtest.report.svg import Points, axes, picture, polyline

HOUR_S = 3600.0


def as_html(setting: Setting, runs: Sequence[Figures]) -> str:
    """The page: figures of each run, and the first of them over time."""
    first = runs[0]
    numbers = {
        f"{setting.currency}, autoscaled": f"{first.cost:,.0f}",
        "GPU-hours": f"{first.gpu_hours:,.0f}",
        "p95 of requests": "-" if first.synchronous.p95_s is None else f"{first.synchronous.p95_s:.1f} s",
        "images drawn": f"{first.drawn:,}",
        "refused or late": f"{first.failed_share:.1%}",
    }
    facts = {
        "load": setting.load,
        "config": f"{setting.config}, seed {setting.seed}",
        "mode": setting.mode,
        "prices": setting.prices,
        "step times": "; ".join(setting.curves),
        "assumed": ", ".join(setting.assumed) or "nothing",
    }
    return Template(TEMPLATE.read_text()).substitute(
        title="Face Avatar, planned",
        heading="Face Avatar, planned",
        headline=escape(f"{setting.load} · {setting.config} · simulated"),
        numbers="".join(f"<div><b>{value}</b>{escape(name)}</div>" for name, value in numbers.items()),
        problems="",
        plots="".join(map(figure_of, _plots(first.windows))),
        table_title="Figures",
        table=_table(setting, runs),
        setting_title="What it rests on",
        setting="".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items()),
        settings="",
    )


def _table(setting: Setting, runs: Sequence[Figures]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in ("", *(run.fleet for run in runs)))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in (name, *cells)) + "</tr>"
        for name, cells in rows(setting, runs).items()
    )
    return f"<tr>{head}</tr>{body}"


def _plots(windows: Sequence[WindowFigures]) -> Iterator[Plot]:
    hours = [window.begins_s / HOUR_S for window in windows]
    series: dict[str, list[float | None]] = {
        "replicas": [window.replicas for window in windows],
        "nodes": [window.nodes for window in windows],
        "waiting": [window.waiting_images for window in windows],
        "p95": [window.p95_s for window in windows],
    }
    points: dict[str, Points] = {name: list(zip(hours, values, strict=True)) for name, values in series.items()}
    shows = "generators that take images, and nodes that are paid; means of ten minutes"
    yield _plot(
        "Replicas and nodes", shows, "", {"c1": points["replicas"], "c2": points["nodes"]}, ("replicas", "nodes")
    )
    shows = "images that no replica has taken yet; means of ten minutes"
    yield _plot("Waiting images", shows, "images", {"c2": points["waiting"]}, ("waiting",))
    shows = "of the requests, queued ones included, that were answered within ten minutes"
    yield _plot("p95", shows, "seconds", {"c4": points["p95"]}, ("p95",))


def _plot(title: str, shows: str, unit: str, lines: dict[str, Points], names: Sequence[str]) -> Plot:
    values = [value for points in lines.values() for _, value in points if value is not None]
    last_hour = max((at for points in lines.values() for at, _ in points), default=0.0) + 1 / 6
    x, y = time_scales(last_hour, max(values, default=1.0))

    def marks() -> Iterator[str]:
        yield from axes(x, y, "hours", unit)
        for style, points in lines.items():
            yield from polyline(stepped(points), x, y, style)

    return Plot(title, shows, picture(marks(), f"{title} over time"), dict(zip(names, lines, strict=True)))
