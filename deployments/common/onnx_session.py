"""ONNX files and sessions for every stage that runs them, without silent fallbacks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx.external_data_helper import uses_external_data

CUDA = "CUDAExecutionProvider"

Provider = str | tuple[str, dict[str, str]]
"""A provider of onnxruntime: its name, alone or with options."""


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """One operator at a time, on `threads` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return options


def provider_list(providers: Sequence[str], gpu_memory_mb: int | None = None) -> list[Provider]:
    """The providers for a session, which takes no more than `gpu_memory_mb` on a CUDA device; None: no limit."""
    if CUDA in providers:
        onnxruntime.preload_dlls()  # sessions look for CUDA and cuDNN in the system's folders only, not in pip packages
    if gpu_memory_mb is None:
        return list(providers)
    # By default the arena doubles with each growth, and would reach the limit long before the memory is needed.
    limited = {"gpu_mem_limit": str(gpu_memory_mb * 2**20), "arena_extend_strategy": "kSameAsRequested"}
    return [(name, limited) if name == CUDA else name for name in providers]


def require_provider(session: onnxruntime.InferenceSession, providers: Sequence[str]) -> None:
    """Raises: RuntimeError unless the session runs on the first of `providers`: onnxruntime falls back silently."""
    active = session.get_providers()
    if active[0] != providers[0]:
        raise RuntimeError(f"{providers[0]} was asked for, but onnxruntime runs on {', '.join(active)}")


def require_self_contained(path: Path) -> None:
    """Raises: ValueError where an ONNX model has external data, which the checksum of this file would not cover."""
    if any(uses_external_data(tensor) for tensor in _tensors(onnx.load_model(path, load_external_data=False))):
        raise ValueError(f"{path} keeps weights in another file; a model must be one file")


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor in a protobuf message, including nested graphs, attributes and functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part)
