"""The comparison with other ways to serve: its figures and picture from runs made up, and a tiny run of all servers."""

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from deployments.types import Pixels, Vector
from loadtest.bench.engine.queues import NO_FACE, Curve
from loadtest.bench.peers.__main__ import Comparison, mix
from loadtest.bench.peers.load import SERVERS, Measured, photo_url, service_config, started
from loadtest.bench.peers.painters import CURVE, SIDES, STEPS, SleepingPainter, painter_of, picture
from loadtest.bench.peers.plot import Panel, drawn
from loadtest.bench.peers.protocol import Drawing, Faces, Order, answer
from loadtest.bench.peers.rounds import Extent
from serve_app.settings import Settings

ROOT = Path(__file__).parents[2]
LIMIT_S = 300


def measured(latency_s: float, images: int = 10) -> Measured:
    """A run in which each of these images takes longer than the one before, the last one `latency_s`."""
    latencies_s = tuple(latency_s * (number + 1) / images for number in range(images))
    return Measured(tuple(8 if number % 2 else 20 for number in range(images)), latencies_s, images / 2, 3.0)


def compared(model: str, **latencies_s: float) -> Comparison:
    runs = {name: measured(latencies_s.get(name.replace("-", "_"), 4.0)) for name in SERVERS}
    return Comparison(model, 1.0, runs, runs)


def test_a_run_tells_its_rate_and_its_percentiles() -> None:
    run = Measured((8, 20, 8), (1.0, 2.0, 3.0), 6.0, 1.5)
    assert run.images_per_s == pytest.approx(0.5)
    assert (run.mean_s, run.p50_s, run.p95_s) == pytest.approx((2.0, 2.0, 2.9))
    assert run.shortest_s == pytest.approx(2.0)


def test_on_the_curve_the_bars_are_about_the_better_of_those_that_batch() -> None:
    rate, p95 = compared("512", litserve=6.0, serve=8.0, fastapi=1.0, face_avatar=2.0).bars
    assert (rate.value, rate.wanted, rate.met) == (1.0, 1.2, False)
    assert (p95.value, p95.met) == (pytest.approx(3.0), True)


def test_on_the_cpu_the_bars_are_about_the_best_of_all() -> None:
    rate, p95 = compared("cpu", fastapi=1.0, face_avatar=2.0).bars
    assert (rate.met, p95.met) == (True, False)
    assert p95.value == pytest.approx(0.5)


def test_the_mix_is_the_same_whatever_the_rate() -> None:
    extent = Extent(images=120, rounds=3, load=0.8, seed=3)
    slow, fast = mix("512", extent, 1.0, 2), mix("512", extent, 4.0, 2)
    assert [arrival.steps for arrival in slow] == [arrival.steps for arrival in fast]
    assert [arrival.at_s for arrival in slow] == pytest.approx([4 * arrival.at_s for arrival in fast])
    assert {arrival.steps for arrival in slow} == set(STEPS["512"])


class NotingPainter:
    """Draws a pixel that tells seed and steps, and notes the groups that it was asked for."""

    def __init__(self) -> None:
        self.groups: list[tuple[int, int]] = []

    def draw(self, faces: Sequence[Vector], seeds: Sequence[int], steps: int) -> list[Pixels]:
        self.groups.append((steps, len(faces)))
        return [np.full((1, 1, 3), (seed, steps, 0), np.uint8) for seed in seeds]


def test_a_batch_is_drawn_in_groups_of_one_step_count_and_comes_back_in_its_order() -> None:
    drawing, painter = Drawing("512"), NotingPainter()
    drawing._painter = painter
    steps = [20, 8, 20, 50, 8]
    pictures = drawing.draw([Order(NO_FACE, seed, count) for seed, count in enumerate(steps)])
    assert painter.groups == [(8, 2), (20, 2), (50, 1)]
    assert [tuple(pixels[0, 0, :2]) for pixels in pictures] == list(enumerate(steps))


def test_a_sleeping_step_takes_the_time_of_the_curve_for_all_that_share_it() -> None:
    painter = SleepingPainter(Curve.line("512", 0.001, 0.002))
    began = time.monotonic()
    assert len(painter.draw([NO_FACE] * 3, [0, 1, 2], steps=10)) == 3
    assert time.monotonic() - began >= 10 * 0.007


def test_the_peers_find_the_face_and_answer_with_a_picture() -> None:
    order = Faces().order({"file_url": photo_url(), "seed": 7, "num_inference_steps": 8})
    assert (order.face.shape, order.seed, order.steps) == ((512,), 7, 8)
    assert len(answer(picture(SIDES["512"]))["image"]) > 10_000


def test_the_library_draws_a_picture_of_the_size_of_the_service() -> None:
    face = np.zeros(512, np.float32)
    first, second = painter_of("cpu").draw([face, face], [1, 2], steps=1)
    assert first.shape == second.shape == (SIDES["cpu"], SIDES["cpu"], 3)
    assert (first != second).any()


def test_the_service_runs_as_it_ships_but_on_one_device_and_without_refusing() -> None:
    config = service_config(CURVE.name)
    (application,) = config["applications"]
    generator = {each["name"]: each for each in application["deployments"]}["AvatarGenerator"]
    assert (generator["num_replicas"], "autoscaling_config" in generator) == (1, False)
    assert Settings(**application["args"]).admission.max_images == 1000
    assert application["import_path"] != service_config("cpu")["applications"][0]["import_path"]
    yaml.safe_dump(config)


def test_a_server_ends_with_its_block(tmp_path: Path) -> None:
    with started([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log") as process:
        assert process.is_running()
    assert not process.is_running()


def test_the_picture_is_valid_and_names_every_server() -> None:
    runs = {name: measured(number + 1.0) for number, name in enumerate(SERVERS)}
    picture = ET.fromstring(drawn([Panel("one", runs, runs), Panel("two", runs, runs)]))
    words = [element.text or "" for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    for title in SERVERS.values():
        assert sum(title in word for word in words) == 2


@pytest.mark.ray
@pytest.mark.parametrize(
    "extent",
    [
        pytest.param(Extent(images=2, rounds=1, load=0.8, seed=0), marks=pytest.mark.slow, id="short"),
        pytest.param(Extent(images=6, rounds=2, load=0.8, seed=0), marks=pytest.mark.long, id="long"),
    ],
)
def test_all_servers_draw_what_they_are_asked_for(tmp_path: Path, extent: Extent) -> None:
    line = [sys.executable, "-m", "loadtest.bench.peers", "--model", "512"]
    line += ["--images", str(extent.images), "--rounds", str(extent.rounds)]
    files = ["--json", str(tmp_path / "peers.json"), "--plot", str(tmp_path / "peers.svg")]
    done = subprocess.run(line + files, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (comparison,) = json.loads((tmp_path / "peers.json").read_text())["comparisons"]
    assert comparison["saturated"].keys() == comparison["mixed"].keys() == SERVERS.keys()
    steps = [arrival.steps for number in range(extent.rounds) for arrival in mix("512", extent, 1.0, number)]
    for runs in (comparison["saturated"], comparison["mixed"]):
        for run in runs.values():
            assert run["steps"] == steps
            alone_s = [count * CURVE.step_s(1) for count in steps]
            assert all(latency >= least for latency, least in zip(run["latencies_s"], alone_s, strict=True))
    ET.fromstring((tmp_path / "peers.svg").read_text())
