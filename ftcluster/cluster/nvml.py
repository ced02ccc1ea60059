"""NVIDIA GPUs as the driver sees them, through NVML. Nothing here touches CUDA, so no GPU memory is taken.

Without a driver there are no GPUs and one sentence why; that is no error, since ftcluster runs on CPUs too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# What the driver asks for after a fault, by NVML_GPU_RECOVERY_ACTION_*
_RECOVERY_ACTIONS = (
    "nothing",
    "reset this GPU",
    "reboot the node",
    "end what uses peer-to-peer transfers",
    "end what runs on this GPU, then reset it",
    "recover the IMEX domain",
    "reset the bus",
    "reboot the whole system",
)


@dataclass(frozen=True)
class Gpu:
    """One GPU; bytes, and shares of 1."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int
    utilization: float
    compute_capability: tuple[int, int]
    recovery: str = ""  # what the driver asks for after a fault; empty: nothing


@dataclass(frozen=True)
class GpuReading:
    """All GPUs of this machine, or why there are none."""

    gpus: tuple[Gpu, ...]
    driver: str = ""
    problem: str = ""


def read_gpus() -> GpuReading:
    """What is there now. Takes about 10 ms, 50 ms on the first call."""
    import pynvml

    try:
        with _nvml(pynvml):
            driver = str(pynvml.nvmlSystemGetDriverVersion())
            return GpuReading(tuple(_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())), driver)
    except pynvml.NVMLError_LibraryNotFound:
        return GpuReading((), problem="no NVIDIA driver on this machine")
    except pynvml.NVMLError as error:
        return GpuReading((), problem=f"the NVIDIA driver does not answer: {error}")


@contextmanager
def _nvml(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _read(pynvml: Any, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        name=str(pynvml.nvmlDeviceGetName(handle)),
        memory_total=int(memory.total),
        memory_used=int(memory.used),
        utilization=_utilization(pynvml, handle),
        compute_capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
        recovery=_recovery(pynvml, handle),
    )


def _utilization(pynvml: Any, handle: Any) -> float:
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except pynvml.NVMLError:
        return float("nan")  # a MIG device has no rate of its own


def _recovery(pynvml: Any, handle: Any) -> str:
    field = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])[0]
    if field.nvmlReturn != pynvml.NVML_SUCCESS or field.value.uiVal == 0:
        return ""  # healthy, or a GPU that does not tell
    action = int(field.value.uiVal)
    return _RECOVERY_ACTIONS[action] if action < len(_RECOVERY_ACTIONS) else f"recovery action {action}"
