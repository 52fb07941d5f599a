"""Devices that are gone, seen from torch and from onnxruntime: every operation fails."""

from typing import Any

import torch
from onnxruntime.capi import onnxruntime_pybind11_state as native
from torch.utils._python_dispatch import TorchDispatchMode

ILLEGAL_ACCESS = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


class LostTorchDevice(TorchDispatchMode):
    """Every operation of this thread fails from now on, as after an error of a CUDA kernel."""

    def __init__(self, error: RuntimeError = ILLEGAL_ACCESS) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._error = error

    def __enter__(self) -> "LostTorchDevice":
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(self, *_operation: Any) -> Any:
        raise self._error


class LostOnnxDevice:
    """A native session that fails every run."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *_arguments: Any) -> None:
        raise native.EPFail("CUDA failure 700: an illegal memory access was encountered")
