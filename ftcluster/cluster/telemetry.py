"""Metrics of the GPUs that this process trains on, and of no other: what a run's records show of its hardware.

Four names, whatever the number of GPUs, since MLflow's pages grow slow with many metric keys. A GPU of another trial on
the same node is not looked at: a tracker's own monitor would log the whole node under every run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ftcluster.cluster.inventory import Gpu
from ftcluster.cluster.probe import Probe, chosen_probe
from ftcluster.config.environment import gpu_script, visible_gpus
from ftcluster.errors import ConfigError

_MIB = 2**20


def gpu_metrics(device: str) -> dict[str, float]:
    """Of this process's GPUs now; nothing where it has none. ``device`` is what its engine was asked to train on.

    A broken script of GPUs is told by whoever looks at GPUs for people; a training goes on without.
    """
    if device == "cpu" or not (gpu_script() or _cuda()):
        return {}
    try:
        return measure(chosen_probe(), visible_gpus(), os.getpid())
    except ConfigError:
        return {}


def measure(probe: Probe, visible: str | None, pid: int) -> dict[str, float]:
    """Mean utilisation, highest temperature, and sums of memory and power over a process's GPUs."""
    gpus = own_gpus(probe.read().gpus, visible, pid)
    found = {
        "system/gpu_utilization_percent": _over(_mean, (gpu.utilization for gpu in gpus), 100.0),
        "system/gpu_memory_used_mb": _over(sum, (gpu.memory_used for gpu in gpus), 1 / _MIB),
        "system/gpu_temperature_c": _over(max, (gpu.temperature for gpu in gpus)),
        "system/gpu_power_w": _over(sum, (gpu.power for gpu in gpus)),
    }
    return {name: value for name, value in found.items() if value is not None}


def own_gpus(gpus: Sequence[Gpu], visible: str | None, pid: int) -> list[Gpu]:
    """Those of ``gpus`` that a process may use, or of them those it does use, where the driver tells.

    ``visible`` is the text of CUDA_VISIBLE_DEVICES: numbers, or beginnings of UUIDs, of cards or MIG devices; what
    follows a word that names nothing is ignored, as CUDA does. Of a MIG device the memory is its own, temperature and
    power are the card's, and there is no utilisation.
    """
    allowed = allowed_gpus(gpus, visible)
    used = [gpu for gpu in allowed if any(process.pid == pid for process in gpu.processes or ())]
    return used or allowed


def allowed_gpus(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES names; all, where it is not set."""
    return list(gpus) if visible is None else _named(gpus, visible)


def _named(gpus: Sequence[Gpu], visible: str) -> list[Gpu]:
    found: list[Gpu] = []
    for word in filter(None, map(str.strip, visible.split(","))):
        gpu = next(filter(None, (_match(gpu, word) for gpu in gpus)), None)
        if gpu is None:
            break
        found.append(gpu)
    return found


def _match(gpu: Gpu, word: str) -> Gpu | None:
    # Numbers are NVML's, by bus; CUDA's own order is the same on machines with cards of one kind.
    if word.isdecimal():
        return gpu if int(word) == gpu.index else None
    for part in gpu.slices:
        if part.uuid.startswith(word):
            return replace(gpu, memory_used=part.memory_used, memory_total=part.memory_total, utilization=None)
    return gpu if gpu.uuid and gpu.uuid.startswith(word) else None


def _over(combine: Callable[[list[float]], float], values: Iterable[float | None], factor: float = 1.0) -> float | None:
    told = [value for value in values if value is not None]
    return factor * combine(told) if told else None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _cuda() -> bool:
    """Whether this process's torch computes on GPUs, whatever the machine has; does not import it."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())
