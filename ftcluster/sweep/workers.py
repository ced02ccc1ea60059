"""What runs in the ranks of hosts. They import this module first, so it imports nothing heavy by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ftcluster.cluster.placement import Resources
from ftcluster.imports import heavy_imports

if TYPE_CHECKING:
    from ftcluster.training.host import HostWorker


def worker(resources: Resources) -> Callable[[], HostWorker]:
    """What makes the worker of a host's rank, there."""
    return partial(_made, max(1, int(resources.cpus)), gpus=resources.gpus > 0)


def _made(threads: int, *, gpus: bool) -> HostWorker:
    with heavy_imports():
        from ftcluster.training.host import HostWorker
    return HostWorker(threads, gpus=gpus)
