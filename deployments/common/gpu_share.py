"""How much of a GPU a process may take of its memory. Imports no model library."""

import ray

CONTEXT_GB = 0.6
"""What a process takes beside its allocators: CUDA's context, kernels, and handles of libraries. An estimate."""


def assigned_share() -> float:
    """The share of a GPU that Ray reserves for this actor (`num_gpus`, at most 1); 1 where it reserves none.

    Without a reservation nobody else is known to be on the GPU.
    """
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return 1.0
    reserved: float = ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)
    return min(reserved, 1.0)


def allocator_gb(share: float, total_gb: float) -> float:
    """What the allocator of a process may hold whose share (0..1) of a GPU of `total_gb` also has to hold its context.

    Raises: ValueError where the context alone does not fit.
    """
    left_gb = min(share, 1.0) * total_gb - CONTEXT_GB
    if left_gb <= 0:
        raise ValueError(
            f"a share of {share:g} of {total_gb:.1f} GB does not hold the {CONTEXT_GB:g} GB of CUDA itself"
        )
    return left_gb


def arenas_gb(sessions: int, memory_mb: int) -> float:
    """What the sessions of onnxruntime in one process take, each with an arena of `memory_mb` (MiB)."""
    return sessions * memory_mb * 2**20 / 1e9
