"""Errors of a device, not of what it was told to compute; nothing works in that process any more."""

from __future__ import annotations

import torch

from ftcluster.engine.shortage import is_shortage
from ftcluster.errors import TrialError

# Most are AcceleratorErrors, but libraries raise plain RuntimeErrors; another rank's error arrives as a TrialError.
_WORDS = ("AcceleratorError", "CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "NCCL error")


def is_device_fault(error: BaseException) -> bool:
    """Whether an error means that the device, or what this process holds of it, is broken: memory errors, lost cards.

    So may be a kernel's complaint about its input. To tell them apart the same has to be tried on another device.
    """
    if is_shortage(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    of_rank = isinstance(error, TrialError) and error.where.startswith("rank ")
    return (of_rank or isinstance(error, RuntimeError)) and any(word in str(error) for word in _WORDS)
