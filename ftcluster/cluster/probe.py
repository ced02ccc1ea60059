"""How GPUs are looked at: one port, two implementations, and which of them this process uses."""

from __future__ import annotations

from typing import Protocol, Self

from ftcluster.cluster.inventory import GpuReading
from ftcluster.config.environment import gpu_script


class Probe(Protocol):
    """Looks at a machine's GPUs without using them. As a context manager it also listens for errors meanwhile."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def read(self) -> GpuReading:
        """What is there now. What a card does not support is None, a machine without GPUs has a reason."""


def chosen_probe() -> Probe:
    """The driver's, or the file that ``FTCLUSTER_GPU_PROBE`` names."""
    from ftcluster.cluster.nvml import NvmlProbe
    from ftcluster.cluster.scripted import ScriptedProbe

    script = gpu_script()
    return ScriptedProbe(script) if script else NvmlProbe()
