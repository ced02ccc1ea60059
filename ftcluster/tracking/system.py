"""What the training process takes from its machine, under the names MLflow shows as system metrics.

Owns this process, and how several processes of one training add up. What a driver tells of its GPUs (temperature,
power) is measured by the cluster layer, and handed in.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import psutil

_MIB = 2**20


def system_metrics(gpus: Callable[[], Mapping[str, float]] = dict) -> dict[str, float]:
    """CPU of this process since the last call (100 is one core), its memory, the host's, and CUDA's peak.

    ``gpus`` measures this process's own GPUs.
    """
    meter = _meter(os.getpid())
    found = {
        "system/cpu_percent": meter.percent(),
        "system/memory_mb": meter.process.memory_info().rss / _MIB,
        "system/host_memory_percent": psutil.virtual_memory().percent,
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["system/gpu_memory_mb"] = torch.cuda.max_memory_allocated() / _MIB
    return {**found, **gpus()}


def over_ranks(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the processes of one training measured, together: sums, but for shares and temperatures."""
    names = dict.fromkeys(name for one in found for name in one)
    told = {name: [one[name] for one in found if name in one] for name in names}
    return {name: _OVER_RANKS.get(name, sum)(values) for name, values in told.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_OVER_RANKS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "system/host_memory_percent": max,  # of several hosts the fullest
    "system/gpu_utilization_percent": _mean,
    "system/gpu_temperature_c": max,
}


class _CpuMeter:
    """Unlike psutil's own, tells the mean since the process began at the first call instead of 0."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self._seconds = 0.0
        self._at = self.process.create_time()

    def percent(self) -> float:
        times, now = self.process.cpu_times(), time.time()
        seconds = times.user + times.system
        share = (seconds - self._seconds) / max(now - self._at, 1e-3)
        self._seconds, self._at = seconds, now
        return 100.0 * max(share, 0.0)


@cache
def _meter(pid: int) -> _CpuMeter:  # by process, since a forked one inherits this cache
    return _CpuMeter(pid)
