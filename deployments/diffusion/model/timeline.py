"""When the work of a model begins and ends on its device. CUDA's streams and events are used here only."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from deployments.common.device_health import lost_device_errors

Mark = Any
"""A moment on a timeline, which may lie ahead."""


class Timeline(Protocol):
    """The order of work on a device."""

    @property
    def is_asynchronous(self) -> bool:
        """Whether the device works while the host goes on."""

    def mark(self) -> Mark:
        """When all that this thread has launched before, decodings aside, is done."""

    def decoding(self, after: Mark) -> AbstractContextManager[None]:
        """What is launched inside the block waits for the mark, and for none of the steps that are launched later."""

    def wait(self, mark: Mark) -> None:
        """Raises: DeviceLostError."""

    def seconds(self, begin: Mark, end: Mark) -> float:
        """Between two marks that have passed."""


class HostTimeline:
    """Work is done when the call that asks for it returns."""

    is_asynchronous = False

    def mark(self) -> Mark:
        """Now."""
        return time.perf_counter()

    def decoding(self, after: Mark) -> AbstractContextManager[None]:
        """On the same cores as everything else."""
        return nullcontext()

    def wait(self, mark: Mark) -> None:
        """It has passed."""

    def seconds(self, begin: Mark, end: Mark) -> float:
        """By the host's clock."""
        return float(end - begin)


class CudaTimeline:
    """Steps and what prepares them share a stream; decodings have one of their own, beside it.

    Relies on torch as follows. The current stream of every thread that sets none is the device's default stream, so
    what threads launch there runs in the order of the launches, and memory that one frees is taken by no other too
    early. Streams that torch makes do not wait for the default one. An event is passed when all work is done that its
    stream had when it was recorded; the time between two is the device's own. To wait for one lets other threads run.
    An error of a kernel is raised by whatever call to CUDA comes next, on any thread, at the latest by such a wait.
    """

    is_asynchronous = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._decodings = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def mark(self) -> torch.cuda.Event:
        """Records an event. Who waits for it sleeps meanwhile, instead of keeping a core busy."""
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    @contextmanager
    def decoding(self, after: torch.cuda.Event) -> Iterator[None]:
        """On the stream for decodings. What it reads must be kept until its results are on the host."""
        self._decodings.wait_event(after)
        with torch.cuda.stream(self._decodings):
            yield

    def wait(self, mark: torch.cuda.Event) -> None:
        """Until the event has passed. Raises: DeviceLostError, torch.AcceleratorError."""
        with lost_device_errors(self._device):
            mark.synchronize()

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """By the device's clock."""
        return float(begin.elapsed_time(end)) / 1000


def timeline_of(device: torch.device) -> Timeline:
    """That of a model on this device."""
    return CudaTimeline(device) if device.type == "cuda" else HostTimeline()


@dataclass(frozen=True, slots=True)
class TimedStep:
    """A step between two marks."""

    timeline: Timeline
    begin: Mark
    end: Mark

    def wait_s(self) -> float:
        """As `StepInFlight.wait_s`."""
        self.timeline.wait(self.end)
        return self.timeline.seconds(self.begin, self.end)
