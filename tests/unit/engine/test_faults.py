"""Which errors are a device's, and which are of what it was told to compute."""

from __future__ import annotations

import pytest
import torch

from ftcluster.engine.faults import is_device_fault
from ftcluster.errors import TrialError


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        TrialError("AcceleratorError: CUDA error: uncorrectable ECC error encountered", where="rank 3"),
    ],
)
def test_of_a_device(error: Exception) -> None:
    assert is_device_fault(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        TrialError("CUDA error: of somebody's own words"),
        ValueError("CUDA error"),
    ],
)
def test_of_something_else(error: Exception) -> None:
    assert not is_device_fault(error)
