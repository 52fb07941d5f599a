"""The report of a load test: one self-contained HTML file, and the same figures as JSON."""

import json
import time
from dataclasses import asdict
from html import escape
from pathlib import Path
from string import Template

import yaml

from loadtest.load.run import Load
from loadtest.metrics.figures import Figures
from loadtest.report import table
from loadtest.report.plot import Plot, legend_of
from loadtest.report.plots import plots
from loadtest.report.setting import Setting

TEMPLATE = Path(__file__).with_name("report.html")
MAX_PROBLEMS = 20


def as_html(figures: Figures, setting: Setting) -> str:
    """A page that needs no other file and no network; its times are in the local time zone."""
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(figures.started))
    ended = ", interrupted" if setting.interrupted else ""
    return Template(TEMPLATE.read_text()).substitute(
        title=f"Face Avatar under load, {date}",
        heading="Face Avatar under load",
        headline=escape(f"{date} · {_load(setting.load)}{ended} · {setting.service}"),
        numbers="".join(
            f'<div class="{"bad" if name == "wrong" and figures.wrong else ""}"><b>{value}</b>{name}</div>'
            for name, value in table.summary(figures).items()
        ),
        problems=_problems(figures),
        plots="".join(map(figure_of, plots(figures))),
        table_title="By kind",
        table=_table(figures),
        setting_title="What it ran on",
        setting=_setting(figures, setting),
        settings=_settings(setting),
    )


def as_json(figures: Figures, setting: Setting) -> str:
    """An object with `setting` and `figures`; whatever is unknown is null."""
    rates = {"requests_per_s": figures.requests_per_s, "images_per_s": figures.images_per_s}
    return json.dumps({"setting": asdict(setting), "figures": asdict(figures) | rates}, indent=2) + "\n"


def _load(load: Load) -> str:
    users = f"{load.users} users" if load.shape == "steady" else f"at most {load.users} users ({load.shape})"
    return f"{users} for {load.seconds} s"


def _problems(figures: Figures) -> str:
    if not figures.problems:
        return ""
    shown = figures.problems[:MAX_PROBLEMS]
    items = "".join(f"<li>{count} × {escape(problem)}</li>" for problem, count in shown)
    return f"<section><h2>What was wrong</h2><ul>{items}</ul></section>"


def figure_of(plot: Plot) -> str:
    """HTML: the plot with its title and its legend."""
    caption = f"<figcaption><b>{escape(plot.title)}</b><small>{escape(plot.shows)}</small></figcaption>"
    return f'<figure>{caption}<div class="legend">{legend_of(plot)}</div>{plot.svg}</figure>'


def _table(figures: Figures) -> str:
    head = "".join(f"<th>{name}</th>" for name in table.HEAD)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows(figures)
    )
    return f"<tr>{head}</tr>{body}"


def _setting(figures: Figures, setting: Setting) -> str:
    machine, load = setting.machine, setting.load
    whose = "machine" if setting.settings else "machine of the users"  # another service may run elsewhere
    facts = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(figures.started)),
        "load": f"{_load(load)}, seed {load.seed}",
        "service": setting.service,
        whose: f"{machine.model}, {machine.cores} cores, {machine.memory_gib:.0f} GiB, {machine.system}",
        "versions": ", ".join(f"{name} {number}" for name, number in setting.versions.items()),
    }
    return "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())


def _settings(setting: Setting) -> str:
    if not setting.settings:
        return ""
    shown = escape(yaml.safe_dump(setting.settings, sort_keys=False))
    return f"<details><summary>Settings of the service</summary><pre>{shown}</pre></details>"
