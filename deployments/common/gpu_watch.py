"""What the driver says of a GPU, as metrics: memory, Xid errors (of the driver's log), and ECC errors of its memory."""

import logging
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from ray._private.thirdparty import pynvml  # Ray's own copy of NVIDIA's bindings; the library comes with the driver
from ray.serve import metrics

REPORT_EVERY_S = 10.0

log = logging.getLogger("ray.serve")  # the logger whose lines Serve keeps


class GpuObserver(Protocol):
    """Receives what a GPU reports, on the watch's thread."""

    def memory(self, byte_counts: Mapping[str, int]) -> None:
        """Bytes by kind: `used` by all processes, `total`."""
        ...

    def error(self, name: str, count: int) -> None:
        """Errors that happened: `xid_N` by NVIDIA's number, `ecc_corrected`, `ecc_uncorrected`."""
        ...


class GpuMetrics:
    """Prometheus metrics of a GPU, through Ray."""

    def __init__(self) -> None:
        self._memory = metrics.Gauge("avatar_gpu_memory_bytes", "Memory of the generators' GPUs.", ("kind",))
        self._errors = metrics.Counter("avatar_gpu_errors_total", "Xid and ECC errors of GPUs.", ("error",))

    def memory(self, byte_counts: Mapping[str, int]) -> None:
        """As `GpuObserver.memory`."""
        for kind, count in byte_counts.items():
            self._memory.set(count, {"kind": kind})

    def error(self, name: str, count: int) -> None:
        """As `GpuObserver.error`."""
        self._errors.inc(count, {"error": name})


class GpuWatch:
    """Reports one GPU: its memory and ECC errors every 10 s, Xid errors at once. Stops when the GPU is gone."""

    def __init__(self, uuid: str, observer: GpuObserver, nvml: Any = pynvml) -> None:
        """`uuid` is the device's, such as `GPU-1a2b…`. Raises: NVMLError where NVML does not know it."""
        self._nvml = nvml
        self._observer = observer
        nvml.nvmlInit()
        self._device = nvml.nvmlDeviceGetHandleByUUID(uuid.encode())
        self._events = nvml.nvmlEventSetCreate()
        nvml.nvmlDeviceRegisterEvents(self._device, nvml.nvmlEventTypeXidCriticalError, self._events)
        self._ecc_errors = self._count_ecc_errors()

    def run(self) -> None:
        """Report until the driver fails; blocks."""
        try:
            while True:
                self.report_once()
        except pynvml.NVMLError as error:
            log.warning("the GPU is watched no longer: %s", error)

    def report_once(self, wait_s: float = REPORT_EVERY_S) -> None:
        """Report all, and wait for one Xid error, `wait_s` seconds at most. Raises: NVMLError."""
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._device)
        self._observer.memory({"used": memory.used, "total": memory.total})
        self._report_ecc_errors()
        self._report_xid_error(wait_s)

    def _report_ecc_errors(self) -> None:
        ecc_errors = self._count_ecc_errors()
        for name, count in ecc_errors.items():
            if count > self._ecc_errors[name]:
                self._observer.error(name, count - self._ecc_errors[name])
        self._ecc_errors = ecc_errors

    def _report_xid_error(self, wait_s: float) -> None:
        try:
            event = self._nvml.nvmlEventSetWait(self._events, round(wait_s * 1000))
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_TIMEOUT:
                raise
        else:
            log.error("the driver reports Xid error %d of the GPU", event.eventData)
            self._observer.error(f"xid_{event.eventData}", 1)

    def _count_ecc_errors(self) -> dict[str, int]:
        """Since the driver was loaded; empty for GPUs without ECC. Raises: NVMLError."""
        kinds = {
            "ecc_corrected": self._nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
            "ecc_uncorrected": self._nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        }
        count = self._nvml.nvmlDeviceGetTotalEccErrors
        try:
            return {name: count(self._device, kind, self._nvml.NVML_VOLATILE_ECC) for name, kind in kinds.items()}
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED:
                raise
            return {}


def watch_gpu(uuid: str) -> None:
    """Report the GPU of this process on a thread, from now on; where NVML is missing, the log says so."""
    try:
        watch = GpuWatch(uuid, GpuMetrics())
    except pynvml.NVMLError as error:
        log.warning("no metrics of the GPU %s: %s", uuid, error)
        return
    threading.Thread(target=watch.run, name="gpu-watch", daemon=True).start()
