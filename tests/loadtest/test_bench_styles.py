"""The benchmark of styles: its servers by hand, and all of it with costs that are given."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from loadtest.bench.engine.lora_costs import LoraCosts
from loadtest.bench.engine.queues import Arrival, Batches, Curve, Engine, backlog, served
from loadtest.bench.engine.styles import (
    A_REPLICA_A_STYLE,
    ENGINE,
    IN_FLIGHT,
    LOOKS,
    MIXES,
    SWAPPING,
    a_replica_a_style,
    compare,
    styled,
    tables,
)

CURVE = Curve.line("by hand", 1.0, 1.0)  # 2 s, 3 s, 4 s ...
COSTS = LoraCosts(slots_same=1.5, slots_mixed=2.0, peft=3.0, swap_s=100.0, swapped_layers=700)
OF_THREE_KINDS = [Arrival(0, 2, "clay"), Arrival(0, 1), Arrival(0, 1, "clay"), Arrival(0, 2, "clay")]


@pytest.mark.parametrize(
    ("name", "expected_s"),
    [
        # Loads clay for two steps of two; unloads it for the second image; loads it again for the third.
        ("by style and steps", [118, 220, 326, 118]),
        ("the same, largest first", [118, 226, 124, 118]),  # the third before the second: clay is loaded
        ("by style, padded", [124, 226, 124, 124]),  # all three of clay make two steps of 4 s, three times as long
        ("set_adapters in @serve.batch", [120, 2, 126, 120]),  # the second first, as nothing is loaded
    ],
)
def test_each_way_to_swap_takes_as_long_as_by_hand(name: str, expected_s: list[float]) -> None:
    arrivals = OF_THREE_KINDS
    batches = Batches(arrivals, CURVE, SWAPPING[name](arrivals, CURVE), COSTS.adapter, COSTS.swap_s)
    assert served(arrivals, batches).latencies_s == expected_s


def test_a_step_of_the_engine_takes_as_long_as_what_its_images_wear() -> None:
    for styles, seconds in [((None, None), 3), (("clay", "clay"), 4.5), (("clay", None), 6), (("clay", "comic"), 6)]:
        arrivals = [Arrival(0, 1, style) for style in styles]
        assert served(arrivals, Engine(arrivals, CURVE, slowdown=COSTS.slots)).end_s == seconds


def test_images_in_flight_follow_each_other_whatever_their_times_say() -> None:
    arrivals = [Arrival(at_s, 1) for at_s in (0, 50, 70)]
    one = Batches(arrivals, CURVE, lambda waiting, _style: waiting[:1])
    assert served(arrivals, one, in_flight=2).latencies_s == [2, 4, 4]


def test_styles_with_replicas_of_their_own_do_not_wait_for_each_other() -> None:
    arrivals = [Arrival(0, 2, "clay"), Arrival(0, 3), Arrival(0, 2, "clay")]
    assert a_replica_a_style(arrivals, CURVE).latencies_s == [6, 6, 6]


def test_styles_are_drawn_by_their_shares() -> None:
    random = np.random.default_rng(0)
    for shares in MIXES.values():
        drawn = [arrival.style for arrival in styled(backlog(6000, random), shares, random)]
        for look, share in zip(LOOKS, shares, strict=True):
            assert drawn.count(look) / 6000 == pytest.approx(share / sum(shares), abs=0.03)


def test_every_mix_has_all_servers_saturated_and_at_every_load() -> None:
    cheap = replace(COSTS, swap_s=0.1, slots_same=1.0, slots_mixed=1.0, peft=1.0)
    found = compare(cheap, images=2 * IN_FLIGHT, seeds=1)
    one_gpu = {ENGINE, *SWAPPING}
    assert {each.mix for each in found.saturated} == {light.mix for light in found.light} == set(MIXES)
    for each in found.saturated:
        assert each.images_per_s.keys() >= one_gpu
        assert each.bars[0].value == 1  # nothing slows a mixed step
        assert each.bars[1].value == each.images_per_s[ENGINE] / max(each.images_per_s[name] for name in SWAPPING)
    assert all(light.latency.keys() == {*one_gpu, A_REPLICA_A_STYLE} for light in found.light)
    console = Console(width=300, record=True)
    console.print(*tables(found))
    assert "set_adapters takes 100 ms" in console.export_text()


@pytest.mark.slow
def test_the_quick_run_measures_what_loras_cost(tmp_path: Path) -> None:
    figures = tmp_path / "styles.json"
    command = [sys.executable, "-m", "loadtest.bench.engine", "--styles", "--quick", "--json", figures]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    costs = json.loads(figures.read_text())["costs"]
    assert costs["swapped_layers"] > 700  # SDXL's
    assert 0 < costs["swap_s"] < 10
    assert min(costs["slots_mixed"], costs["peft"]) > 0.5
