"""A rank looks after its own GPUs: whether they are sound, nobody else's, and of the kind that was asked for."""

from __future__ import annotations

import os

from ftcluster.cluster.health import judge
from ftcluster.cluster.inventory import Gpu
from ftcluster.cluster.machine import read_gpus
from ftcluster.cluster.placement import Resources
from ftcluster.cluster.probe import chosen_probe
from ftcluster.cluster.telemetry import own_gpus
from ftcluster.config.environment import visible_gpus
from ftcluster.errors import ConfigError
from ftcluster.units import format_bytes


class OwnGpus:
    """Of this process, from now to its end; their errors are listened for meanwhile."""

    def __init__(self, wanted: Resources) -> None:
        self._wanted = wanted
        self._probe = chosen_probe().__enter__()

    def problems(self) -> tuple[str, ...]:
        """Why they must not be used, each with the GPU's name; nothing where no driver tells of any.

        A broken script of GPUs is told by whoever looks at GPUs for people.
        """
        try:
            gpus = read_gpus(self._probe).gpus
        except ConfigError:
            return ()
        mine = own_gpus(gpus, visible_gpus(), os.getpid())
        return tuple(f"GPU {gpu.uuid or gpu.index}: {reason}" for gpu in mine if (reason := self._reason(gpu)))

    def _reason(self, gpu: Gpu) -> str:
        found = [reason.text for reason in judge(gpu).unusable]
        if not suits(gpu, self._wanted):
            held = "unknown memory" if gpu.memory_total is None else format_bytes(gpu.memory_total)
            found.append(f"it is a {gpu.name} with {held}")
        return "; ".join(found)


def suits(gpu: Gpu, wanted: Resources) -> bool:
    """Whether it is of the type, and has the memory, that a host asks for."""
    return wanted.gpu_type.lower() in gpu.name.lower() and (gpu.memory_total or 0) >= wanted.gpu_memory
