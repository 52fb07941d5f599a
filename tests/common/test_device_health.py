"""Which errors are the device's, and whether it responds. Devices break as they do under CUDA: each operation fails."""

import pytest
import torch

from deployments.common.device_health import is_device_error, is_out_of_memory, lost_device_errors, responds
from deployments.errors import DeviceLostError
from tests.support.lost_devices import ILLEGAL_ACCESS, LostTorchDevice

CPU = torch.device("cpu")
DEVICE_ERRORS: list[RuntimeError] = [
    ILLEGAL_ACCESS,
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
]
MEMORY_ERRORS: list[RuntimeError] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
OTHERS: list[Exception] = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
    ValueError("CUDA error"),
]


@pytest.mark.parametrize("error", DEVICE_ERRORS, ids=str)
def test_a_device_that_fails_every_operation_after_an_error_is_lost(error: RuntimeError) -> None:
    assert is_device_error(error)
    caught_loss = pytest.raises(DeviceLostError, match="cpu does not respond")
    with LostTorchDevice(), caught_loss as caught, lost_device_errors(CPU):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", DEVICE_ERRORS, ids=str)
def test_a_device_that_responds_after_an_error_is_not_lost(error: RuntimeError) -> None:
    with pytest.raises(RuntimeError) as caught, lost_device_errors(CPU):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [*MEMORY_ERRORS, *OTHERS], ids=str)
def test_no_other_error_even_asks_the_device(error: Exception) -> None:
    assert not is_device_error(error)
    with LostTorchDevice(), pytest.raises(type(error)) as caught, lost_device_errors(CPU):
        raise error
    assert caught.value is error


def test_a_lack_of_memory_is_told_from_the_rest() -> None:
    assert all(map(is_out_of_memory, MEMORY_ERRORS))
    assert not any(map(is_out_of_memory, [*DEVICE_ERRORS, *OTHERS]))


def test_a_device_without_memory_for_the_tiny_operation_is_not_lost() -> None:
    with LostTorchDevice(MEMORY_ERRORS[0]):
        assert responds(CPU)
    assert responds("cpu")
