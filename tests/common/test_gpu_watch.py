"""What is reported of a GPU, of a driver that is made up: the calls of NVML and their errors are its own."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.thirdparty import pynvml

from deployments.common.gpu_watch import GpuWatch, watch_gpu

UUID = "GPU-1a2b"


@dataclass
class Driver:
    """Answers as NVML does for one GPU."""

    xids: list[int] = field(default_factory=list)  # that happened, the oldest first
    ecc: dict[int, int] | None = field(default_factory=lambda: {0: 0, 1: 0})  # None: has no ECC
    is_lost: bool = False
    registered: int = 0

    nvmlEventTypeXidCriticalError = pynvml.nvmlEventTypeXidCriticalError  # noqa: N815
    NVML_MEMORY_ERROR_TYPE_CORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    NVML_VOLATILE_ECC = pynvml.NVML_VOLATILE_ECC

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:  # noqa: N802
        if uuid.decode() != UUID:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "device"

    def nvmlEventSetCreate(self) -> str:  # noqa: N802
        return "events"

    def nvmlDeviceRegisterEvents(self, _device: str, kinds: int, _events: str) -> None:  # noqa: N802
        self.registered |= kinds

    def nvmlDeviceGetMemoryInfo(self, _device: str) -> Any:  # noqa: N802
        if self.is_lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(used=3, total=48)

    def nvmlDeviceGetTotalEccErrors(self, _device: str, kind: int, _counter: int) -> int:  # noqa: N802
        if self.ecc is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.ecc[kind]

    def nvmlEventSetWait(self, _events: str, timeout_ms: int) -> Any:  # noqa: N802
        assert self.registered == pynvml.nvmlEventTypeXidCriticalError
        assert timeout_ms == 0
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(eventData=self.xids.pop(0))


class Seen:
    def __init__(self) -> None:
        self.bytes: Mapping[str, int] = {}
        self.errors: list[tuple[str, int]] = []

    def memory(self, byte_counts: Mapping[str, int]) -> None:
        self.bytes = byte_counts

    def error(self, name: str, count: int) -> None:
        self.errors.append((name, count))


def test_memory_and_every_xid_error_are_reported() -> None:
    driver, seen = Driver(xids=[79, 48]), Seen()
    watch = GpuWatch(UUID, seen, driver)
    for _ in range(3):
        watch.report_once(wait_s=0)
    assert seen.bytes == {"used": 3, "total": 48}
    assert seen.errors == [("xid_79", 1), ("xid_48", 1)]


def test_only_ecc_errors_that_come_while_it_is_watched_are_counted() -> None:
    driver, seen = Driver(ecc={0: 5, 1: 1}), Seen()
    watch = GpuWatch(UUID, seen, driver)
    watch.report_once(wait_s=0)
    driver.ecc = {0: 8, 1: 1}
    watch.report_once(wait_s=0)
    driver.ecc = {0: 8, 1: 2}
    watch.report_once(wait_s=0)
    assert seen.errors == [("ecc_corrected", 3), ("ecc_uncorrected", 1)]


def test_a_gpu_without_ecc_has_its_other_figures() -> None:
    seen = Seen()
    GpuWatch(UUID, seen, Driver(ecc=None, xids=[13])).report_once(wait_s=0)
    assert (seen.bytes["used"], seen.errors) == (3, [("xid_13", 1)])


def test_the_watch_of_a_gpu_that_fell_off_the_bus_ends_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ray.serve"):
        GpuWatch(UUID, Seen(), Driver(is_lost=True)).run()
    assert "the GPU is watched no longer: GPU is lost" in caplog.text


def test_without_the_library_of_the_driver_nothing_is_reported_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_library() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_library)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        watch_gpu(UUID)
    assert f"no metrics of the GPU {UUID}" in caplog.text
