"""How many GPUs a load needs, which latencies come out, and what it costs: the service in simulated time.

    python -m loadtest.plan --load diurnal --images-per-day 20000 --json plan.json
    python -m loadtest.plan --trace trace.jsonl --curve sdxl-plus-face=gpu.json:sdxl

It runs the service's own scheduler, admission, autoscaling policies and router with the settings of a config file, and
compares them with the smallest fixed fleet that is as good: whose p95 is at most that of the autoscaled one, or
`--p95`, and that fails no more images. Step times are those of `python -m loadtest.bench.gpu --json`, those that a
running service exports for Prometheus (`--curves`), or assumed; everything that is assumed is named in the output.
Clients that are refused do not come back.

    python -m loadtest.plan --search --target "p95<10s" --minutes 10

tries other settings of the generator's autoscaler on another day of the same load, and prints the cheapest that meet
the target as YAML for the config file.

    python -m loadtest.plan --oracle --target "p95<10s" \\
        --beside 'steady={policy: {policy_function: "serve_app.policies:SteadyRowsPolicy"}}'

shows other settings of it beside those of the config file, and the oracle: the cheapest fleet that knows the load
before it comes, and meets the target in every ten minutes.
All images are simulated one by one (`--mode exact`). With `--mode fleet` a few replicas are, at each rate, and the
fleet's requests are drawn from what those did, for loads of very many images: `--compare` prints both side by side.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from loadtest.plan.answers import ORACLE, Figures, Setting, as_json, basis, over_time, summary
from loadtest.plan.curves import Curves, ModelTimes, assumed_for, read_measured
from loadtest.plan.fleet_simulation import FleetSimulation
from loadtest.plan.loads import ASSUMED_MIX, Load, Mix, drawn, read_trace
from loadtest.plan.oracle import Run, oracle
from loadtest.plan.page import as_html
from loadtest.plan.replica_table import Demand, ReplicaTable
from loadtest.plan.scaled_service import check_apps
from loadtest.plan.scenario import Scenario
from loadtest.plan.search import Target, cheapest
from loadtest.plan.service import PRICES, Prices, Service, Starts
from loadtest.plan.service_metrics import read_page, served_times
from loadtest.plan.simulation import Simulation
from serve_app.local_ray import StartError

PRODUCTION = Path(__file__).parents[2] / "serve_app" / "config" / "production.yaml"
SHAPES = ("poisson", "diurnal", "flash", "weekly")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated."""

    load: Load
    other_load: Load  # for a search: of the same kind, but not the one that the figures are of, unless it is a trace
    scenario: Scenario
    table: ReplicaTable | None  # of the load, for a fleet; None: every image is simulated

    def run(self, name: str = "autoscaled", service: Service | None = None) -> Figures:
        """The service, or other settings of it, with the load."""
        scenario = self.scenario if service is None else self.scenario.serving(service)
        return Figures.of(name, self._simulate(scenario))

    def in_other_mode(self) -> "Plan":
        """The same, exact instead of as a fleet, or the reverse."""
        return replace(self, table=_table(self.load, self.scenario) if self.table is None else None)

    @property
    def mode(self) -> str:
        """How it is simulated."""
        return "exact" if self.table is None else "fleet"

    def run_other(self, service: Service) -> Figures:
        """Other settings with the other load."""
        scenario = replace(self.scenario, service=service, seed=self.scenario.seed + 1)
        return Figures.of("", self._simulate_load(self.other_load, scenario))

    def smallest_fixed(self, p95_s: float, failed_share: float) -> Figures | None:
        """By halving, since more replicas are never worse; None where the most that are allowed do not suffice."""
        low, high = 1, self.scenario.service.scaling["AvatarGenerator"].max_replicas
        best: Figures | None = None
        while low <= high:
            middle = (low + high) // 2
            figures = self.run(f"{middle} fixed", self.scenario.service.fixed(middle))
            if figures.is_as_good(p95_s, failed_share):
                best, high = figures, middle - 1
            else:
                low = middle + 1
        return best

    def oracle(self, target: Target, console: Console) -> Figures:
        """The cheapest fleet that knows the load and meets the target in every ten minutes."""
        found = oracle(self.load, self.scenario, self._simulate, target.share, target.below_s)
        if found.missed:
            console.print(f"The oracle misses the target in {found.missed} of {len(found.run.windows)} windows.")
        return Figures.of(ORACLE, found.run)

    def _simulate(self, scenario: Scenario) -> Run:
        return self._simulate_load(self.load, scenario)

    def _simulate_load(self, load: Load, scenario: Scenario) -> Run:
        if self.table is None:
            return Simulation(load, scenario).run()
        return FleetSimulation(load, scenario, self.table).run()


def main(arguments: Sequence[str] | None = None) -> None:
    """`arguments` of None: those of the process."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it names each policy that is made
    console = Console(width=140)
    try:
        if options.search or options.oracle:
            options.target = Target.parse(options.target, options.failed)
        plan, setting = _plan(options)
        others = {name: plan.scenario.service.with_generator_changes(changes) for name, changes in options.beside}
    except (OSError, ValueError, ImportError, AttributeError, StartError) as error:  # also of a policy that is none
        parser.error(str(error))
    began_s = time.process_time()
    autoscaled = plan.run()
    cpu_s = time.process_time() - began_s
    runs = [autoscaled, *(plan.run(name, service) for name, service in others.items())]
    runs += _compared(plan, autoscaled, options, console)
    console.print(summary(setting, runs), over_time(autoscaled), *basis(setting), sep="\n", highlight=False)
    console.print(
        f"{autoscaled.images:,} images were simulated in {cpu_s:.1f} s of one core, mode {plan.mode}.", highlight=False
    )
    if options.json:
        options.json.write_text(json.dumps(as_json(setting, runs, cpu_s), indent=2) + "\n")
    if options.html:
        options.html.write_text(as_html(setting, runs))


def _compared(plan: Plan, autoscaled: Figures, options: argparse.Namespace, console: Console) -> Iterator[Figures]:
    """What else is simulated: the other mode, a fixed fleet, the oracle, and the settings that a search finds."""
    if options.compare:
        other = plan.in_other_mode()
        began_s = time.process_time()
        yield other.run(f"the same, mode {other.mode}")
        console.print(f"Mode {other.mode} took {time.process_time() - began_s:.1f} s of one core.", highlight=False)
    if options.fixed:
        target_s = options.p95 or autoscaled.synchronous.p95_s or autoscaled.queued.p95_s
        fixed = None if target_s is None else plan.smallest_fixed(target_s, autoscaled.failed_share)
        if fixed is None:
            console.print("No fixed fleet of the size that the config allows is as good.")
        else:
            yield fixed
    if options.oracle:
        yield plan.oracle(options.target, console)
    if options.search:
        found = cheapest(
            plan.scenario.service,
            options.target,
            plan.run_other,
            time.monotonic() + 60 * options.minutes,
        )
        met = "meet" if options.target.miss(found.figures) <= 1 else "come nearest to"
        end = "no single change is better" if found.is_exhausted else f"{options.minutes:g} minutes were over"
        console.print(f"{found.tried} settings tried, until {end}. These {met} the target:\n\n{found.as_yaml}")
        yield plan.run("found", found.service)


def _plan(options: argparse.Namespace) -> tuple[Plan, Setting]:
    """Raises: OSError, ValueError, StartError for what is wrong with the options or the files that they name."""
    service = Service.read(options.config)
    if options.max_replicas:
        service = service.with_up_to(options.max_replicas)
    assumed: list[str] = []
    if options.trace:
        load = other_load = read_trace(options.trace)
    else:
        if options.mix is None:
            assumed.append("the mix of requests")
        mix = Mix.read(options.mix or ASSUMED_MIX)
        day = partial(drawn, options.load, options.images_per_day, options.days, mix)
        load = day(options.seed)
        other_load = day(options.seed + 1) if options.search else load
    check_apps(load, service.models)
    if not load.requests:
        raise ValueError("this load has no requests: ask for more images or days")
    served = served_times([(read_page(source), source) for source in options.curves])
    curves = _curves({service.models[kind.app] for kind in load.columns.kinds}, dict(options.curve), served)
    for name, times in curves.models.items():
        assumed += [f"{what} of {name}" for what in times.assumed]
    prices = Prices.read(options.prices)
    if options.node not in prices.nodes:
        raise ValueError(f"{options.prices} has no node {options.node!r}; it has {', '.join(prices.nodes)}")
    changed = dict(options.start)
    starts = Starts.model_validate(changed)
    assumed += [f"{name} {value:g}" for name, value in starts.model_dump().items() if name not in changed]
    scenario = Scenario(service, curves, starts, prices.nodes[options.node], options.seed)
    setting = Setting(
        load.name,
        options.mode,
        options.config.name,
        options.seed,
        curves.sources,
        f"{prices.source}, {prices.as_of}, node {options.node}",
        prices.currency,
        starts.model_dump(),
        assumed,
    )
    return Plan(load, other_load, scenario, _table(load, scenario) if options.mode == "fleet" else None), setting


def _table(load: Load, scenario: Scenario) -> ReplicaTable:
    return ReplicaTable(Demand.of(load.columns, scenario.service.models), scenario)


def _curves(models: set[str], files: Mapping[str, tuple[Path, str]], served: Mapping[str, ModelTimes]) -> Curves:
    """Raises: OSError; ValueError where a model has none."""
    found: dict[str, ModelTimes] = {}
    for model in sorted(models):
        times = read_measured(*files[model]) if model in files else served.get(model) or assumed_for(model)
        if times is None:
            raise ValueError(f"no step times are assumed for {model}: give --curve {model}=FILE:NAME")
        found[model] = times
    return Curves(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=PRODUCTION, help="the Serve config file (production.yaml)")
    parser.add_argument("--load", choices=SHAPES, default="diurnal", help="how the rate changes over time (diurnal)")
    parser.add_argument("--images-per-day", type=_positive, default=20000.0, help="on average (20000)")
    parser.add_argument("--days", type=_positive, default=1.0, help="how many (1)")
    parser.add_argument("--mix", type=Path, help="what requests ask for, in the form of loadtest/plan/mix.yaml")
    parser.add_argument("--trace", type=Path, help="requests instead: a file of python -m loadtest.plan.trace")
    parser.add_argument(
        "--curve", type=_curve, action="append", default=[], metavar="MODEL=FILE:NAME",
        help="step times of a model: NAME (sdxl, sd15) in a file of python -m loadtest.bench.gpu --json",
    )  # fmt: skip
    parser.add_argument(
        "--curves", action="append", default=[], metavar="URL-OR-FILE",
        help="step times of all models that a running service drew with: a page of its metrics, one for each node",
    )  # fmt: skip
    parser.add_argument("--max-replicas", type=_count, help="of generators, instead of the config's")
    parser.add_argument(
        "--start", type=_start, action="append", default=[], metavar="NAME=VALUE",
        help=f"how long something takes: {', '.join(Starts.model_fields)}",
    )  # fmt: skip
    parser.add_argument("--prices", type=Path, default=PRICES, help="in the form of loadtest/plan/prices.yaml")
    parser.add_argument("--node", default="one-gpu", help="a node of that file (one-gpu)")
    parser.add_argument("--p95", type=_positive, help="seconds of synchronous requests that a fixed fleet has to reach")
    parser.add_argument("--no-fixed", dest="fixed", action="store_false", help="no comparison with a fixed fleet")
    parser.add_argument(
        "--beside", type=_beside, action="append", default=[], metavar="NAME=YAML",
        help="also with changes of the generator's autoscaling_config, such as 'slow={downscale_delay_s: 900}'",
    )  # fmt: skip
    parser.add_argument("--oracle", action="store_true", help="also the cheapest fleet that knows the load (16 runs)")
    parser.add_argument("--search", action="store_true", help="find the cheapest settings that meet the target")
    parser.add_argument("--target", default="p95<10s", help="of synchronous requests, such as p95<10s (the default)")
    parser.add_argument("--failed", type=_share, default=0.01, help="images that may be refused or late (0.01)")
    parser.add_argument("--minutes", type=_positive, default=10.0, help="of the search, at most (10)")
    parser.add_argument(
        "--mode",
        choices=("exact", "fleet"),
        default="exact",
        help="whether each image is simulated, or drawn from what a few replicas do",
    )
    parser.add_argument("--compare", action="store_true", help="the other mode beside it")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same day")
    parser.add_argument("--json", type=_file, help="where the figures go")
    parser.add_argument("--html", type=_file, help="the same as a page")
    return parser


def _positive(text: str) -> float:
    if not 0 < (number := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _file(text: str) -> Path:
    """One that can be written when all is done."""
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no file in a folder that there is")
    return path


def _share(text: str) -> float:
    if not 0 <= (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return number


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _curve(text: str) -> tuple[str, tuple[Path, str]]:
    model, equals, rest = text.partition("=")
    file, colon, name = rest.rpartition(":")
    if not (equals and colon and model and file and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL=FILE:NAME")
    return model, (Path(file), name)


def _beside(text: str) -> tuple[str, dict[str, Any]]:
    name, _, changes = text.partition("=")
    try:
        values = yaml.safe_load(changes)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not (name and isinstance(values, dict)):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME={{SETTING: VALUE}}")
    return name, values


def _start(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in Starts.model_fields:
        raise argparse.ArgumentTypeError(f"there is no {name!r}; there are {', '.join(Starts.model_fields)}")
    return name, float(value)


if __name__ == "__main__":
    main()
