"""The planner's engine against the real one, with a device whose steps take simulated time: the same rows, the same
moments."""

import math
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.diffusion.engine import engine as engine_module
from deployments.diffusion.engine.engine import DiffusionEngine
from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.scheduler import Row
from deployments.errors import DeadlineError
from deployments.types import AvatarSpec, FaceEmbedding, Pixels
from loadtest.plan.engine import KnownCosts, SimulatedEngine
from tests.support.fakes import FOREVER, avatar_spec, face

MOST = 8  # rows of a batch
SIZES = (4, 8)
AGEING = 0.25
WAIT_S = 60


def step_s(size: int, batch_size: int) -> float:
    return 0.01 * size + 0.003 * size * batch_size


def known() -> LatencyModel:
    """What is learned from more such steps is what it knows already."""
    model = LatencyModel(MOST)
    for size in SIZES:
        for batch_size in range(1, MOST + 1):
            model.add(("fake", (size, size)), batch_size, step_s(size, batch_size))
    return model


@dataclass
class Arrival:
    at: float
    spec: AvatarSpec


class Inline:
    """Does at once what the engine gives to another thread."""

    def submit(self, work: Callable[..., None], *arguments: Any, **options: Any) -> None:
        work(*arguments, **options)

    def shutdown(self, wait: bool = True) -> None:
        """There is nothing to wait for."""


@dataclass
class DeviceStep:
    device: "Device"
    ends_at: float
    seconds: float

    def wait_s(self) -> float:
        self.device.pass_time(self.ends_at)
        self.device.in_flight -= 1
        self.device.go_on_if_idle()
        return self.seconds


class Device:
    """A denoiser in simulated time. While time passes, rows arrive."""

    def __init__(self, arrivals: Sequence[Arrival], *, is_asynchronous: bool) -> None:
        self.is_asynchronous = is_asynchronous
        self.now = 0.0
        self.free_at = 0.0
        self.in_flight = 0
        self.coming = list(arrivals)
        self.rows: list[Row] = []
        self.left: dict[int, int] = {}  # steps, by seed, of the rows that came
        self.ended_at: dict[int, float] = {}
        self.all_came = threading.Event()
        self.engine: DiffusionEngine | None = None

    def pass_time(self, until: float) -> None:
        while self.coming and self.coming[0].at <= until:
            self.arrive()
        self.now = max(self.now, until)

    def arrive(self) -> None:
        arrival = self.coming.pop(0)
        self.now = max(self.now, arrival.at)
        self.left[arrival.spec.seed] = arrival.spec.num_inference_steps
        assert self.engine is not None
        self.rows.append(self.engine.submit(arrival.spec, face(), self))
        self.rows[-1].future.add_done_callback(lambda _: self.go_on_if_idle())
        if not self.coming:
            self.all_came.set()

    def go_on_if_idle(self) -> None:
        """Nobody waits for a step: time goes on to the next row."""
        held = [row for row in self.rows if self.left[row.spec.seed] and not row.future.done()]
        if self.coming and not self.in_flight and not held:
            self.arrive()

    def bucket(self, spec: AvatarSpec, _face: FaceEmbedding) -> Hashable:
        return spec.width, spec.height

    def batch_sizes(self, spec: AvatarSpec) -> list[int]:
        return [2 if spec.guidance_scale > 1 else 1] * spec.num_inference_steps

    def prepare(self, specs: Sequence[AvatarSpec]) -> None:
        """Takes no time."""

    def start(self, spec: AvatarSpec, _face: FaceEmbedding) -> AvatarSpec:
        return spec

    def step(self, samples: Sequence[AvatarSpec]) -> DeviceStep:
        seconds = step_s(samples[0].width, sum(self.batch_sizes(spec)[0] for spec in samples))
        ends_at = self.free_at = max(self.now, self.free_at) + seconds
        for spec in samples:
            self.left[spec.seed] -= 1
            if not self.left[spec.seed]:
                self.ended_at[spec.seed] = ends_at
        self.in_flight += 1
        return DeviceStep(self, ends_at, seconds)

    def decode(self, _sample: AvatarSpec, overlapped: bool = False) -> Pixels:
        return np.zeros((1, 1, 3), np.uint8)


class Times:
    """When each row took its first step and was done; None where its deadline was earlier."""

    def __init__(self) -> None:
        self.joined: dict[int, float | None] = {}
        self.ended: dict[int, float | None] = {}


def real(arrivals: Sequence[Arrival], monkeypatch: pytest.MonkeyPatch, *, is_asynchronous: bool) -> Times:
    device = Device(arrivals, is_asynchronous=is_asynchronous)
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "time", SimpleNamespace(time=lambda: device.now))
        patch.setattr(engine_module, "ThreadPoolExecutor", lambda *_: Inline())
        device.engine = DiffusionEngine(known(), AGEING)
        device.arrive()
        assert device.all_came.wait(WAIT_S)
        times = Times()
        for row in device.rows:
            error = row.future.exception(WAIT_S)
            assert error is None or isinstance(error, DeadlineError)
            times.joined[row.spec.seed] = row.joined_at
            times.ended[row.spec.seed] = None if error else device.ended_at[row.spec.seed]
        device.engine.close()
    return times


def simulated(arrivals: Sequence[Arrival], *, is_asynchronous: bool) -> Times:
    device = Device((), is_asynchronous=is_asynchronous)
    engine = SimulatedEngine(KnownCosts(known()), AGEING, lambda _row: 0.0, launched_ahead=is_asynchronous)
    rows, times, coming = [], Times(), list(arrivals)
    while coming or engine.wake_at < FOREVER:
        if coming and coming[0].at <= engine.wake_at:
            arrival = coming.pop(0)
            size = arrival.spec.width, arrival.spec.height
            rows.append(Row(arrival.spec, face(), device, ("fake", size), arrival.at))
            engine.add(rows[-1], arrival.at)
        else:
            times.ended |= {row.spec.seed: None for row in engine.wake(engine.wake_at)}
        times.ended |= {row.spec.seed: at for row, at in engine.drawn()}
    times.joined = {row.spec.seed: row.joined_at for row in rows}
    return times


requests = st.tuples(
    st.floats(0.001, 0.6),  # seconds after the one before
    st.integers(1, 9),  # steps
    st.sampled_from(SIZES),
    st.booleans(),  # guidance
    st.sampled_from("abc"),  # tenant
    st.sampled_from([None, None, None, 0.2, 1.0]),  # seconds to the deadline
)


@pytest.mark.parametrize("is_asynchronous", [False, True], ids=["on the host", "launched ahead"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.lists(requests, min_size=1, max_size=14))
def test_rows_join_end_and_expire_when_they_do_in_the_real_engine(
    is_asynchronous: bool, drawn: list[tuple[float, int, int, bool, str, float | None]]
) -> None:
    arrivals, at = [], 0.0
    for seed, (gap, steps, size, guided, tenant, patience) in enumerate(drawn):
        at += gap * math.pi / 3  # no round number, or a row might come as a step ends, which the last bit would decide
        spec = avatar_spec(
            seed=seed,
            num_inference_steps=steps,
            width=size,
            height=size,
            guidance_scale=2.0 if guided else 1.0,
            tenant=tenant,
            deadline=FOREVER if patience is None else at + patience,
        )
        arrivals.append(Arrival(at, spec))
    with pytest.MonkeyPatch.context() as monkeypatch:
        expected = real(arrivals, monkeypatch, is_asynchronous=is_asynchronous)
    found = simulated(arrivals, is_asynchronous=is_asynchronous)
    assert found.joined == pytest.approx(expected.joined, nan_ok=True)
    assert found.ended == pytest.approx(expected.ended, nan_ok=True)
