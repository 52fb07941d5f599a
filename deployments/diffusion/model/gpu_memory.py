"""The limit on the GPU memory of a generator's process."""

import logging

import torch

from deployments.common.gpu_share import allocator_gb
from deployments.diffusion.model.loader import usable_device

log = logging.getLogger("ray.serve")  # the logger whose lines Serve keeps


def limit_gpu_memory(name: str, share: float, budget_gb: float | None) -> float | None:
    """Keep torch's allocator within this process's share (0..1) of the GPU `name`; returns the limit in GB.

    None on a CPU, which has no such limit. What does not fit then raises an out-of-memory error here, which the engine
    handles, instead of taking the memory of other processes on the GPU. `budget_gb`, what the models may take
    together, should be below the limit.

    Raises: ValueError where the share is too small for CUDA itself; RuntimeError without that GPU.
    """
    device = usable_device(name)
    if device.type != "cuda":
        return None
    total_gb = torch.cuda.get_device_properties(device).total_memory / 1e9
    limit_gb = allocator_gb(share, total_gb)
    torch.cuda.set_per_process_memory_fraction(limit_gb / total_gb, device)
    if budget_gb is not None and budget_gb > limit_gb:
        log.warning(
            "memory_gb is %g, but this replica may take %.1f of the %.1f GB of %s: fewer rows will share a step",
            budget_gb,
            limit_gb,
            total_gb,
            name,
        )
    return limit_gb


def gpu_uuid(name: str) -> str | None:
    """The GPU `name` as NVML names it, such as `GPU-1a2b…`; None on a CPU."""
    device = torch.device(name)
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None
