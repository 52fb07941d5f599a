"""Where compiled kernels are kept from one start of a replica to the next. Imports torch in its functions only."""

import hashlib
import logging
import os
import re
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # read by torch at each compilation; Triton's kernels are below it

log = logging.getLogger("ray.serve")  # the logger whose lines Serve keeps


def cache_key(device: str) -> str:
    """What kernels depend on: versions of torch, its CUDA and Triton, and the architecture of the device.

    Such as `torch-2.13.0-cuda-13.0-triton-3.7.0-sm_89`; instruction sets of a CPU are hashed.
    """
    import torch

    try:
        import triton  # type: ignore[import-not-found,unused-ignore]  # comes with torch's CUDA build
    except ImportError:
        triton_version = "none"
    else:
        triton_version = triton.__version__
    versions = f"torch-{torch.__version__}-cuda-{torch.version.cuda or 'none'}-triton-{triton_version}"
    return re.sub(r"[^\w.-]", "_", f"{versions}-{_architecture(device)}")


def _architecture(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm_{major}{minor}"
    sets = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    # Their names would be too long for a folder on a processor that has many.
    return f"cpu-{hashlib.sha256('-'.join(sets).encode()).hexdigest()[:12]}"


def use_compile_cache(root: Path, device: str) -> bool:
    """Keep what this process compiles under `root`, and take from there what fits it; returns whether anything may.

    Kernels for another torch, Triton or device are a miss, which the log says; they are then compiled. Code is loaded
    from this folder: whoever can write to it can run code here.
    """
    folder = root.expanduser() / cache_key(device)
    is_hit = folder.is_dir() and any(folder.iterdir())
    if is_hit:
        log.info("compiled kernels are taken from %s", folder)
    else:
        others = sorted(other.name for other in root.expanduser().glob("torch-*") if other != folder)
        there = f"there are those of {', '.join(others)}" if others else "there are none yet"
        log.warning("no compiled kernels for %s, so they are compiled now: %s", folder.name, there)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(folder)
    return is_hit
