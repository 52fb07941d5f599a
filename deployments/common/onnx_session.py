"""ONNX files and sessions for every stage that runs them, without silent fallbacks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import uses_external_data

from deployments.errors import DeviceLostError

CUDA = "CUDAExecutionProvider"
DEVICE_ERRORS = ("CUDA failure", "CUDA error", "CUDNN failure", "CUDNN_STATUS", "CUBLAS failure", "CUBLAS_STATUS")
MEMORY_ERRORS = ("out of memory", "Failed to allocate memory", "STATUS_ALLOC_FAILED")

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


@contextmanager
def lost_provider_errors(sessions: Sequence[onnxruntime.InferenceSession], providers: Sequence[str]) -> Iterator[None]:
    """Around runs of sessions on the first of `providers`. Raises: DeviceLostError where that works no more.

    After an error of its provider onnxruntime may open a session again on the CPU: it then goes on, very slowly.
    """
    try:
        yield
    except Exception as error:  # those of onnxruntime share no class
        _require_still_on(providers[0], sessions)
        if is_device_error(error) and not responds(providers[0]):
            raise DeviceLostError(f"{providers[0]} does not respond after {type(error).__name__}: {error}") from error
        raise
    _require_still_on(providers[0], sessions)


def _require_still_on(provider: str, sessions: Sequence[onnxruntime.InferenceSession]) -> None:
    """Raises: DeviceLostError."""
    for session in sessions:
        if (now := session.get_providers()[0]) != provider:
            raise DeviceLostError(f"onnxruntime left {provider} for {now}")


def is_device_error(error: Exception) -> bool:
    """Whether an error came from a GPU or its libraries, and was not a lack of memory."""
    return not _is_out_of_memory(error) and any(text in str(error) for text in DEVICE_ERRORS)


def responds(provider: str) -> bool:
    """Whether a new session on this provider computes: after a sticky CUDA error no session of this process does."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "probe", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[provider])
        session.run(["y"], {"x": np.ones(1, np.float32)})
    except Exception as error:  # whatever it is, nothing was computed
        return _is_out_of_memory(error)
    return bool(session.get_providers()[0] == provider)


def _is_out_of_memory(error: Exception) -> bool:
    return any(text in str(error) for text in MEMORY_ERRORS)


def require_self_contained(path: Path) -> onnx.ModelProto:
    """The ONNX model in a file.

    Raises: OSError; ValueError for another kind of file, and where the model has external data, which the checksum of
    this file would not cover.
    """
    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} is not an ONNX file: {error}") from error
    if any(uses_external_data(tensor) for tensor in _tensors(model)):
        raise ValueError(f"{path} keeps weights in another file; a model must be one file")
    return model


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor in a protobuf message, including nested graphs, attributes and functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part)
