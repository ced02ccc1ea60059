"""The cluster and the hosts of a sweep, opened together; on this machine while its data is still being prepared."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.config.environment import ray_address
from ftcluster.config.schema import RunConfig
from ftcluster.sweep.hosts import HostPool
from ftcluster.training.bench import trials_per_host
from ftcluster.training.host import HostWorker


class Opening:
    """Use as a context manager: cluster and hosts end with it."""

    def __init__(self, base: RunConfig, trials: int, swept: Collection[str]) -> None:
        """For a sweep of at most ``trials`` trials over the keys ``swept``."""
        self._base, self._trials, self._swept = base, trials, swept
        self._open = ExitStack()
        self._thread = ThreadPoolExecutor(1, "opening")
        self._future: Future[tuple[Cluster, HostPool]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        self._open.__exit__(kind, error, trace)

    def begin(self) -> None:
        """Open an embedded cluster beside whatever goes on; one of others is not kept waiting for data."""
        if not ray_address(self._base.cluster.address) and self._future is None:
            self._future = self._thread.submit(self._opened)

    def get(self) -> tuple[Cluster, HostPool]:
        """Both of them, once they are there.

        Raises:
            UsageError: no cluster at the address, or a host is larger than every node.
        """
        return self._future.result() if self._future else self._opened()

    def _opened(self) -> tuple[Cluster, HostPool]:
        wanted = self._base.cluster
        cluster = self._open.enter_context(Cluster(ray_address(wanted.address)))
        resources = cluster.resources(wanted.cpus, wanted.gpus, wanted.ranks)
        threads, gpus = max(1, int(resources.cpus)), resources.gpus > 0
        most = min(self._trials, wanted.max_trials or self._trials)
        places = trials_per_host(self._base, self._swept, gpus=gpus)
        return cluster, self._open.enter_context(
            HostPool(cluster, resources, most, lambda: HostWorker(threads, gpus=gpus), places)
        )
