"""The timeline of a GPU, with events that a test passes: CUDA itself has to be at hand for more."""

from typing import Any

import pytest
import torch

from deployments.diffusion.model import timeline
from deployments.diffusion.model.timeline import CudaTimeline, TimedStep
from deployments.errors import DeviceLostError
from tests.support.lost_devices import ILLEGAL_ACCESS


class FakeEvent:
    """Recorded at a moment of the fake device's clock, in milliseconds."""

    now_ms = 0.0

    def __init__(self, *, enable_timing: bool, blocking: bool) -> None:
        assert enable_timing
        assert blocking

    def record(self, _stream: object) -> None:
        self.at_ms = FakeEvent.now_ms

    def synchronize(self) -> None:
        """It has passed."""

    def elapsed_time(self, end: "FakeEvent") -> float:
        return end.at_ms - self.at_ms


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaTimeline:
    def nothing(*_arguments: Any) -> object:
        return object()

    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    return CudaTimeline(torch.device("cuda:0"))


def test_a_step_takes_the_seconds_between_its_events(cuda: CudaTimeline) -> None:
    begin = cuda.mark()
    FakeEvent.now_ms += 20.0
    assert TimedStep(cuda, begin, cuda.mark()).wait_s() == pytest.approx(0.020)


def test_a_device_that_was_lost_meanwhile_is_noticed_by_the_wait(
    cuda: CudaTimeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_event: FakeEvent) -> None:
        raise ILLEGAL_ACCESS

    monkeypatch.setattr(FakeEvent, "synchronize", fails)
    monkeypatch.setattr("deployments.common.device_health.responds", lambda _device: False)
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        TimedStep(cuda, cuda.mark(), cuda.mark()).wait_s()


def test_only_a_gpu_is_asynchronous() -> None:
    assert not timeline.timeline_of(torch.device("cpu")).is_asynchronous
