"""The planner: its small models against the real things, what becomes of images, and its commands."""

import asyncio
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.serve._private.autoscaling_state import DeploymentAutoscalingState
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    HandleMetricReport,
    ReplicaID,
    ReplicaMetricReport,
    TimeStampedValue,
)
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from deployments.diffusion.model_cache import ModelCache
from deployments.model_memory import ModelMemory
from loadtest.plan import __main__ as plan
from loadtest.plan import trace
from loadtest.plan.answers import Figures
from loadtest.plan.autoscaling import Autoscaler
from loadtest.plan.curves import Curves, assumed_for, read_measured
from loadtest.plan.loads import ASSUMED_MIX, Kind, Load, Mix, Request, drawn, read_trace, trace_line
from loadtest.plan.queue import SimulatedQueue
from loadtest.plan.replica import LoadedModels
from loadtest.plan.scenario import Scenario
from loadtest.plan.search import Target, cheapest
from loadtest.plan.service import PRICES, NodePrice, Prices, Service, Starts
from loadtest.plan.simulation import Simulation
from serve_app.catalog.catalog import Catalog
from serve_app.tasks.models import Claim
from tests.support.service import config_file
from tests.support.tasks import Office, queued, task

HOUR = NodePrice(gpus=1, per_hour=2.0)
SPOT = NodePrice(gpus=2, per_hour=2.0, min_billed_s=60, interruptions_per_day=200)
SHORT = Starts(node_s=40, node_idle_s=60, replica_s=5, load_s_per_gb=0.1, warm_s=1)
KLEIN, SDXL = "face-avatar", "face-avatar-sdxl"


@pytest.fixture(scope="module")
def service() -> Service:
    return Service.read(plan.PRODUCTION)


@pytest.fixture(scope="module")
def curves(service: Service) -> Curves:
    return Curves({model: times for model in service.models.values() if (times := assumed_for(model))})


def request(at_s: float = 1.0, **changes: Any) -> Request:
    values: dict[str, Any] = {
        "at_s": at_s, "tenant": "t1", "app": KLEIN, "width": 1024, "height": 1024, "steps": 4, "guided": False,
        "batch": 1, "queued": False, "low": False, "deadline_s": None,
    }  # fmt: skip
    return Request(**(values | changes))


# The small models against the real things.


@pytest.mark.parametrize("began_s", [2.0, 2.4, 2.8])
def test_calls_that_are_there_for_a_look_back_period_are_seen_whenever_they_came(began_s: float) -> None:
    config = AutoscalingConfig(min_replicas=0, max_replicas=2, metrics_interval_s=0.2, look_back_period_s=1)
    scaler = Autoscaler("deployment", config)
    calls, seen = scaler.sliding_mean(), []
    for report in range(1, 31):
        now = report * scaler.report_s
        if math.isclose(now, began_s) or math.isclose(now, began_s + scaler.look_back_s):
            calls.add(9 if now < began_s + 0.5 else -9, now)
        seen.append(calls.take(now))
    assert max(seen) == pytest.approx(9)
    assert seen[-1] == 0
    assert sum(seen) == pytest.approx(9 * scaler.look_back_s / scaler.report_s)


POLICIES = (*(f"serve_app.policies:{name}" for name in ("RowsPolicy", "SteadyRowsPolicy", "TasksPolicy")), "default")
looks = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(-1, 1)), min_size=1, max_size=40)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy=st.sampled_from(POLICIES), delays=st.sampled_from([(0, 0), (3, 5)]), looks=looks)
def test_the_autoscaler_decides_as_serves_controller(
    policy: str, delays: tuple[int, int], looks: Sequence[tuple[int, int, int]]
) -> None:
    """Each second its handle reports queued calls, and one of its replicas what the policies read."""
    config = AutoscalingConfig(
        min_replicas=0,
        max_replicas=6,
        target_ongoing_requests=4,
        look_back_period_s=1,
        upscale_delay_s=delays[0],
        downscale_delay_s=delays[1],
        downscale_to_zero_delay_s=2 * delays[1],
        **({} if policy == "default" else {"policy": AutoscalingPolicy(policy_function=policy)}),
    )
    ours, deployment = Autoscaler("deployment", config), DeploymentID(name="deployment")
    theirs = DeploymentAutoscalingState(deployment)
    info: Any = SimpleNamespace(
        deployment_config=SimpleNamespace(autoscaling_config=config, gang_scheduling_config=None),
        target_capacity=None,
        target_capacity_direction=None,
    )
    target = theirs.register(info, 0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for second, (queued_calls, reported, behind) in enumerate(looks, 1):
            monkeypatch.setattr("time.time", lambda second=second: float(second))
            replicas = [ReplicaID(str(number), deployment) for number in range(max(0, target + behind))]
            theirs.update_running_replica_ids(replicas)
            calls = [TimeStampedValue(second - 1.0, float(queued_calls))]
            theirs.record_request_metrics_for_handle(
                HandleMetricReport(deployment, "handle", "actor", DeploymentHandleSource.UNKNOWN, calls, {}, second)
            )
            if replicas:
                values = {name: [TimeStampedValue(second - 1.0, float(reported))] for name in ("rows", "tasks")}
                theirs.record_request_metrics_for_replica(ReplicaMetricReport(replicas[0], values, second))
            metrics = dict.fromkeys(("rows", "tasks"), float(reported)) if replicas else {}
            target = theirs.get_decision_num_replicas(target)
            assert ours.decide(second, len(replicas), queued_calls, queued_calls, metrics) == target


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=10))
def test_models_are_kept_and_evicted_as_in_the_real_cache(moves: list[tuple[str, bool]]) -> None:
    """A move leases a model; with True it is held until the next one."""
    sizes = {"a": ModelMemory(4.0), "b": ModelMemory(3.0, 2.0), "c": ModelMemory(6.0, 1.0)}

    async def real() -> list[list[str]]:
        cache = ModelCache(lambda name: name, sizes, 9.0)
        seen = []
        for name, is_held in moves:
            async with cache.lease(name):
                if is_held:
                    async with asyncio.timeout(60):
                        async with cache.lease("a" if name != "c" else "c"):
                            pass
            seen.append(cache.loaded)
        return seen

    models, seen = LoadedModels(sizes, 9.0), []
    for name, is_held in moves:
        names = [name, "a" if name != "c" else "c"] if is_held else [name]
        for each in names:
            assert models.lease(each)
            models.has_loaded(each)
        for each in reversed(names):
            models.release(each)
        seen.append(models.loaded)
    assert seen == asyncio.run(real())


def test_a_model_waits_for_room_that_leased_ones_have() -> None:
    models = LoadedModels({"a": ModelMemory(4.0), "b": ModelMemory(4.0)}, 5.0)
    assert models.lease("a")
    assert not models.lease("b")
    models.release("a")
    assert models.lease("b")
    assert not models.is_known("a")


def test_tasks_are_taken_in_the_order_of_the_real_queue(valkey: Path) -> None:
    dice = random.Random(3)
    jobs = {f"{number}": request(tenant=dice.choice("abc"), low=dice.random() < 0.2) for number in range(60)}

    class Job:
        def __init__(self, name: str) -> None:
            self.name, self.tenant, self.is_low = name, jobs[name].tenant, jobs[name].low

    async def scenario() -> tuple[list[str], list[str]]:
        office = Office(valkey)
        store, queue = office.store("worker"), office.queue("worker")
        await queue.take(1, 0.001)  # makes the group
        ours: SimulatedQueue[Job] = SimulatedQueue()
        real, simulated, coming = [], [], list(jobs)
        while len(real) < len(jobs):
            if coming and dice.random() < 0.6:
                name = coming.pop(0)
                await queued(store, name, owner=jobs[name].tenant, priority="low" if jobs[name].low else "normal")
                ours.add(Job(name))
            elif len(ours):
                [message] = await queue.take(1, 0.001, left=0)
                assert await store.claim(message.task_id) is Claim.ACQUIRED
                await queue.remove(message)
                real.append(message.task_id)
                simulated.append(ours.take().name)
        await office.redis.aclose()
        return real, simulated

    real, simulated = asyncio.run(scenario())
    assert simulated == real


# What becomes of images.


def test_one_image_takes_its_steps_its_decoding_and_what_comes_before_and_after(
    service: Service, curves: Curves
) -> None:
    run = Simulation(Load("one", [request()], 3600.0), Scenario(service.fixed(1), curves, SHORT, HOUR)).run()
    times = curves.models["flux2-klein"].at((1024, 1024))
    expected_s = SHORT.before_s + 4 * times.step_s(1) + times.decode_s + SHORT.after_s
    assert run.ledger.synchronous_s == [pytest.approx(expected_s)]
    assert run.generators.busy_s == pytest.approx(4 * times.step_s(1) + times.decode_s)
    assert (run.gpu_hours, run.cost) == (1.0, 2.0)


def test_a_queued_task_brings_the_first_node_and_waits_for_each_part_of_the_start(
    service: Service, curves: Curves
) -> None:
    starts = SHORT.model_copy(update={"load_s_per_gb": 1.0})
    run = Simulation(Load("one", [request(10.0, queued=True)], 3600.0), Scenario(service, curves, starts, HOUR)).run()
    klein = service.settings.generator.models["flux2-klein"]
    assert klein.weights_gb is not None
    assert klein.weights_gb < klein.memory_gb - 5  # memory for steps and pictures is not read from the disk
    start_s = starts.node_s + starts.replica_s + klein.weights_gb * starts.load_s_per_gb + starts.warm_s
    [latency_s] = run.ledger.queued_s
    times = curves.models["flux2-klein"].at((1024, 1024))
    drawn_s = 4 * times.step_s(1) + times.decode_s
    assert latency_s - start_s - drawn_s - SHORT.before_s - SHORT.after_s == pytest.approx(0, abs=1.0)  # of a look
    assert run.ledger.met_cold_start == 1
    scaling = service.scaling["AvatarGenerator"]
    lived_s = start_s + float(scaling.downscale_to_zero_delay_s or 0) + SHORT.node_idle_s
    assert 3600 * run.gpu_hours == pytest.approx(lived_s, abs=60)


def test_a_synchronous_request_at_zero_is_refused_and_brings_a_generator_for_the_next(
    service: Service, curves: Curves
) -> None:
    requests = [request(1.0), request(200.0)]
    run = Simulation(Load("two", requests, 3600.0), Scenario(service, curves, SHORT, HOUR)).run()
    assert run.ledger.refused == {"no generator runs": 1}
    assert len(run.ledger.synchronous_s) == 1


def test_more_than_the_slots_of_the_ingresses_is_refused(service: Service, curves: Curves) -> None:
    crowd = [request(1.0 + number / 1000, batch=8, tenant=f"t{number % 2}") for number in range(40)]
    run = Simulation(Load("crowd", crowd, 600.0), Scenario(service.fixed(2), curves, SHORT, HOUR)).run()
    assert run.ledger.refused["no slot"] >= 8
    assert run.ledger.drawn + run.ledger.late + run.ledger.refused["no slot"] == 320


def test_a_crowd_of_large_requests_brings_ingresses_before_their_slots_are_full(
    service: Service, curves: Curves
) -> None:
    crowd = [request(4.0 * number, batch=8, steps=40, tenant=f"t{number % 4}") for number in range(40)]
    most_requests = service.scaling["AvatarIngress"].get_target_ongoing_requests()
    assert len(crowd) < 2 * most_requests  # as requests they fit the two ingresses that there are
    run = Simulation(Load("crowd", crowd, 600.0), Scenario(service.fixed(8), curves, SHORT, HOUR)).run()
    assert not run.ledger.refused
    assert len(run.ledger.synchronous_s) == 40


def test_images_that_nobody_can_draw_in_time_are_late(service: Service, curves: Curves) -> None:
    crowd = [request(1.0, batch=8, queued=True, deadline_s=30.0) for _ in range(30)]
    run = Simulation(Load("late", crowd, 600.0), Scenario(service.fixed(1), curves, SHORT, HOUR)).run()
    assert run.ledger.late > 0
    assert run.ledger.drawn > 0
    assert run.ledger.drawn + run.ledger.late == 240


requests_of_a_day = st.lists(
    st.fixed_dictionaries(
        {
            "gap_s": st.floats(0.0, 200.0),
            "tenant": st.sampled_from(["t1", "t2", "t3"]),
            "app": st.sampled_from([KLEIN, SDXL]),
            "batch": st.integers(1, 8),
            "queued": st.booleans(),
            "low": st.booleans(),
            "deadline_s": st.sampled_from([None, 5.0, 120.0, 900.0]),
        }
    ),
    max_size=25,
)


def day(parts: Sequence[dict[str, Any]]) -> Load:
    at_s, requests = 0.0, []
    for part in parts:
        at_s += part["gap_s"]
        steps = {"steps": 30, "guided": True} if part["app"] == SDXL else {}
        requests.append(request(at_s, **{name: value for name, value in part.items() if name != "gap_s"}, **steps))
    return Load("day", requests, at_s + 600.0)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parts=requests_of_a_day, seed=st.integers(0, 5), deaths_a_day=st.sampled_from([400.0, 4000.0]))
def test_no_image_is_lost_or_drawn_twice_when_replicas_die_and_nodes_go(
    service: Service, curves: Curves, parts: list[dict[str, Any]], seed: int, deaths_a_day: float
) -> None:
    load = day(parts)
    starts = SHORT.model_copy(update={"kills_per_gpu_day": deaths_a_day})
    runs = [Simulation(load, Scenario(service, curves, starts, SPOT, seed)).run() for _ in range(2)]
    ledger = runs[0].ledger
    assert ledger.images == load.images
    assert ledger.drawn + ledger.late + sum(ledger.refused.values()) == ledger.images
    assert runs[0].generators.waiting == 0  # and none ended twice, which would be an AssertionError
    assert runs[0].generators.ongoing == 0
    fleet = runs[0].generators.fleet
    assert all(len(node.replicas) <= SPOT.gpus for node in fleet.nodes)
    assert Figures.of("", runs[0]) == Figures.of("", runs[1])  # the same seed, the same day


def test_a_busy_quarter_of_an_hour_loses_and_repeats_none_either(service: Service, curves: Curves) -> None:
    starts = SHORT.model_copy(update={"kills_per_gpu_day": 4000.0})
    load = drawn("poisson", 150_000, 0.01, Mix.read(ASSUMED_MIX), 7)
    run = Simulation(load, Scenario(service.fixed(6), curves, starts, SPOT)).run()
    ledger = run.ledger
    assert run.generators.fleet.deaths > 20
    assert ledger.drawn > 200
    assert ledger.drawn + ledger.late + sum(ledger.refused.values()) == ledger.images == load.images


def test_a_larger_fleet_waits_less_and_costs_more(service: Service, curves: Curves) -> None:
    load = drawn("poisson", 60_000, 0.02, Mix.read(ASSUMED_MIX), 1)
    scenarios = (Scenario(service.fixed(number), curves, SHORT, HOUR) for number in (1, 8))
    small, large = (Figures.of("", Simulation(load, scenario).run()) for scenario in scenarios)
    assert small.synchronous.p95_s is not None
    assert large.synchronous.p95_s is not None
    assert large.synchronous.p95_s < small.synchronous.p95_s
    assert large.cost == pytest.approx(8 * small.cost)
    assert large.idle_share > small.idle_share


@pytest.mark.parametrize("look_s", [0.0, 2.0, 7.0])
def test_a_generator_that_is_told_to_end_is_paid_until_it_looks_whether_it_has_calls(
    service: Service, curves: Curves, look_s: float
) -> None:
    scaling = AutoscalingConfig(min_replicas=1, initial_replicas=2, max_replicas=2, downscale_delay_s=5)
    told = replace(service.with_generator_scaling(scaling), drain_look_s=look_s)
    starts = SHORT.model_copy(update={"node_idle_s": 0.0})
    run = Simulation(Load("one", [request()], 100.0), Scenario(told, curves, starts, HOUR)).run()
    [ended] = [node.released_at for node in run.generators.fleet.nodes if node.released_at is not None]
    told_at = ended - look_s
    assert 5 <= told_at < 60
    assert run.generators.fleet.paid_node_s(100.0) == pytest.approx(100.0 + ended)


# Loads, curves and commands.


@pytest.mark.parametrize("shape", plan.SHAPES)
def test_a_shape_has_about_the_images_that_are_asked_for(shape: Any) -> None:
    days = 7 if shape == "weekly" else 1
    load = drawn(shape, 10_000, days, Mix.read(ASSUMED_MIX), 5)
    assert load.images == pytest.approx(10_000 * days, rel=0.1)
    moments = [each.at_s for each in load.requests]
    assert moments == sorted(moments)
    assert moments[0] >= 0
    assert moments[-1] < days * 86400


def test_a_diurnal_day_is_busy_in_the_afternoon_and_quiet_at_night() -> None:
    load = drawn("diurnal", 20_000, 1, Mix(kinds=(Kind(app=KLEIN, width=512, height=512, steps=4),)), 2)
    hours = np.bincount([int(each.at_s // 3600) for each in load.requests], minlength=24)
    assert hours[15:17].sum() > 5 * hours[3:5].sum()


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    requests = [request(5.0, queued=True), request(7.5, batch=4, tenant="t2")]
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(f"{trace_line(each)}\n" for each in reversed(requests)))
    load = read_trace(file)
    assert list(load.requests) == [replace(each, at_s=each.at_s - 5.0) for each in requests]


def test_a_line_that_is_no_request_is_named(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(f"{trace_line(request())}\n{{}}\n")
    with pytest.raises(ValueError, match="line 2"):
        read_trace(file)


def test_a_trace_of_a_service_has_neither_names_nor_prompts(
    valkey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fill() -> None:
        office = Office(valkey)
        store = office.store("ingress")
        for name, owner, fields in (
            ("a", "ann", {"prompt": "a secret prompt", "batch": 2}),
            ("b", "bob", {"celery": True, "priority": "low", "num_inference_steps": 9}),
            ("c", "ann", {"celery": True}),
        ):
            await store.create(task(name, owner=owner, **fields), "PENDING")
        prefixes.append(office.redis.prefix)
        await office.redis.aclose()

    prefixes: list[str] = []
    asyncio.run(fill())
    out, config = tmp_path / "trace.jsonl", config_file(tmp_path, broker={"prefix": prefixes[0]})
    trace.main([str(out), "--config", str(config), "--data-dir", str(valkey)])
    assert "3 requests" in capsys.readouterr().out
    text = out.read_text()
    assert not any(word in text for word in ("ann", "bob", "secret", "example.org"))
    first, second, third = read_trace(out).requests
    assert (first.tenant, second.tenant, third.tenant) == ("t1", "t2", "t1")
    assert (first.batch, second.steps, second.low, second.queued) == (2, 9, True, True)
    native = Catalog.read(["embedded"]).apps[KLEIN].native_sizes
    assert (first.width, first.height) in {(width, height) for width, height in native}


def test_measured_step_times_are_read_from_the_benchmark_and_not_called_assumed(tmp_path: Path) -> None:
    steps = [{"size_px": 512, "rows": rows, "step_ms": 10.0 + 5 * rows} for rows in (1, 2, 4)]
    figures = {"sdxl": {"steps": steps, "decode": [{"size_px": 512, "decode_ms": 40.0}]}}
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"setting": {"device": "NVIDIA X"}, "figures": figures}))
    times = read_measured(file, "sdxl")
    assert not times.assumed
    assert "NVIDIA X" in times.source
    at = times.at((512, 512))
    assert [at.step_s(rows) for rows in (2, 3, 4, 16)] == pytest.approx([0.015, 0.0175, 0.02, 0.05])
    assert times.at((1024, 1024)).step_s(2) == pytest.approx(4 * 0.015)
    with pytest.raises(ValueError, match="sd15"):
        read_measured(file, "sd15")


def test_the_command_prints_what_it_assumes_and_writes_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "plan.json", tmp_path / "plan.html"
    arguments = [
        "--images-per-day",
        "4000",
        "--days",
        "0.05",
        "--load",
        "flash",
        "--json",
        str(out),
        "--html",
        str(page),
    ]
    plan.main([*arguments, "--start", "node_s=60"])
    printed = " ".join(capsys.readouterr().out.split())
    for said in ("assumed, replace by your own", "step times of flux2-klein", "the mix of requests", "GPU-hours"):
        assert said in printed
    found = json.loads(out.read_text())
    assert found["setting"]["starts"]["node_s"] == 60
    assert not any(name.startswith("node_s") for name in found["setting"]["assumed"])
    autoscaled = found["runs"][0]
    assert autoscaled["images"] == autoscaled["drawn"] + autoscaled["late"] + sum(autoscaled["refused"].values())
    assert autoscaled["cost_per_1000"] == pytest.approx(1000 * autoscaled["cost"] / autoscaled["drawn"])
    assert len(autoscaled["windows"]) == 8
    shown = page.read_text()
    assert shown.count("<svg") == 3
    assert "step times of flux2-klein" in shown
    assert "$" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--node", "none"], "one-gpu"),
        (["--start", "coffee_s=3"], "node_s"),
        (["--curve", "gpu.json"], "MODEL=FILE:NAME"),
        (["--images-per-day", "0"], "not above 0"),
        (["--trace", "/nowhere.jsonl"], "nowhere"),
        (["--json", "/nowhere/plan.json"], "no file in a folder"),
        (["--config", "/nowhere.yaml"], "nowhere"),
        (["--config", str(plan.PRODUCTION.with_name("embedded.yaml"))], "no app face-avatar-sdxl"),
    ],
)
def test_what_cannot_be_planned_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plan.main(arguments)
    assert said in capsys.readouterr().err


def test_prices_say_where_they_are_from() -> None:
    prices = Prices.read(PRICES)
    assert prices.source
    assert prices.as_of


# The search.


def test_a_search_meets_the_target_for_less_than_settings_that_meet_it_too(service: Service, curves: Curves) -> None:
    load = drawn("poisson", 40_000, 0.008, Mix(kinds=(Kind(app=KLEIN, width=512, height=512, steps=4),)), 1)

    def evaluate(each: Service) -> Figures:
        return Figures.of("", Simulation(load, Scenario(each, curves, SHORT, HOUR)).run())

    wasteful, tries = service.fixed(4), iter(range(100))
    target = Target("p95", 10.0, 0.01)
    found = cheapest(wasteful, target, evaluate, 8.0, clock=lambda: float(next(tries)))
    assert target.miss(evaluate(wasteful)) <= 1
    assert target.miss(found.figures) <= 1
    assert found.figures.cost <= evaluate(wasteful).cost / 2
    [deployment] = yaml.safe_load(found.as_yaml)
    assert AutoscalingConfig(**deployment["autoscaling_config"]).min_replicas < 4


def test_a_search_ends_when_its_time_is_over(service: Service, curves: Curves) -> None:
    load = Load("one", [request()], 600.0)
    seconds = iter(range(100))
    found = cheapest(
        service.fixed(2),
        Target("p95", 10.0, 0.0),
        lambda each: Figures.of("", Simulation(load, Scenario(each, curves, SHORT, HOUR)).run()),
        3.0,
        clock=lambda: float(next(seconds)),
    )
    assert not found.is_exhausted
    assert found.tried == 3


def test_a_search_changes_one_argument_of_a_policy_and_keeps_the_others(service: Service, curves: Curves) -> None:
    policy = {"policy_function": "serve_app.policies:SteadyRowsPolicy", "policy_kwargs": {"window_s": 77.0}}
    tried: list[dict[str, Any]] = []

    def evaluate(each: Service) -> Figures:
        tried.append(dict(each.scaling["AvatarGenerator"].policy.policy_kwargs))
        return Figures.of("", Simulation(Load("one", [request()], 600.0), Scenario(each, curves, SHORT, HOUR)).run())

    cheapest(service.with_generator_changes({"policy": policy}), Target("p95", 10.0, 0.0), evaluate, math.inf)
    assert {"window_s": 77.0, "rows": 3.0} in tried
    assert {"window_s": 600.0} in tried


@pytest.mark.parametrize("text", ["p95", "p90<3s", "p95<fast", "p95>3s"])
def test_what_is_no_target_is_said(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plan.main(["--search", "--target", text])
    assert "p95<10s" in capsys.readouterr().err
