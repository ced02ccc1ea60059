"""The cluster and the hosts of a sweep; on this machine they open while it is still being planned::

    begin()  Ray starts, while this process imports torch
    warm()   its hosts start, while data is prepared
    get()    both of them are there

The thread that opens them imports nothing heavy before ``warm``: two threads must not import torch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from ftcluster.cluster.notes import Notes
from ftcluster.cluster.ray_cluster import Cluster, import_ray
from ftcluster.config.compose import from_dict
from ftcluster.config.environment import ray_address
from ftcluster.config.schema import RunConfig
from ftcluster.ledger.process import this_process
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.bundles import swept_keys, trials_at_most
from ftcluster.sweep.control import check_resumable, specification
from ftcluster.sweep.hosts import HostPool, Shape
from ftcluster.sweep.sharing import Sharing
from ftcluster.sweep.space import Space, levels
from ftcluster.sweep.workers import worker


class Opening:
    """Use as a context manager: cluster and hosts end with it."""

    def __init__(self, base: RunConfig, trials: int, swept: Collection[str]) -> None:
        """For a sweep of at most ``trials`` trials over the keys ``swept``."""
        self.base, self._trials, self._swept = base, trials, swept
        self._open = ExitStack()
        self._thread = ThreadPoolExecutor(1, "opening")
        self._cluster: Future[Cluster] | None = None
        self._hosts: Future[HostPool] | None = None

    @classmethod
    def of(cls, row: RunRow, address: str = "") -> Self:
        """For going on with a sweep in the ledger, on another cluster than the one it began on if need be.

        Raises:
            UsageError: it is no sweep, or has ended.
        """
        check_resumable(row)
        base, spec = from_dict(row.config["base"]), specification(row)
        if address:
            base = replace(base, cluster=replace(base.cluster, address=address))
        return cls(base, trials_at_most(spec), swept_keys(spec))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            futures: list[Future[Any] | None] = [self._cluster, self._hosts]
            wait([future for future in futures if future])
            self._open.__exit__(kind, error, trace)
        finally:
            self._thread.shutdown()  # last: Linux ends Ray's processes with the thread that started them

    def begin(self) -> None:
        """Start an embedded cluster beside whatever goes on; one of others is not kept waiting for data."""
        if not ray_address(self.base.cluster.address):
            # Of what this thread and the other one import from now on, only packages without cycles are the same.
            import_ray("")
            import numpy  # noqa: F401

            self._begin()

    def warm(self) -> None:
        """Start hosts likewise, once torch is imported."""
        if not ray_address(self.base.cluster.address):
            self._warm()

    def get(self) -> tuple[Cluster, HostPool]:
        """Both of them, once they are there.

        Raises:
            UsageError: no cluster at the address, or a host is larger than every node.
        """
        cluster, hosts = self._begin(), self._warm()
        return cluster.result(), hosts.result()

    def _begin(self) -> Future[Cluster]:
        if self._cluster is None:
            self._cluster = self._thread.submit(self._started)
        return self._cluster

    def _warm(self) -> Future[HostPool]:
        if self._hosts is None:
            self._hosts = self._thread.submit(self._opened, self._begin())
        return self._hosts

    def shape(self, config: RunConfig) -> Shape:
        """What a trial of the sweep needs of a host."""
        return self._shape(self.get()[0], config)

    def shapes(self, space: Space) -> list[Shape]:
        """Those that trials may have, the largest first.

        Raises:
            UsageError: one of them is larger than the whole cluster, or its GPUs are of no kind that is there.
        """
        cluster, base = self.get()[0], self.base
        several = levels(space["cluster.ranks"]) if "cluster.ranks" in space else None
        found = [
            self._shape(cluster, replace(base, cluster=replace(base.cluster, ranks=ranks)))
            for ranks in sorted(several or (base.cluster.ranks,), reverse=True)
        ]
        for shape in found:
            cluster.room(shape.resources)
        return found

    def sharing(self, sweep: str, shape: Shape, tell: Callable[[str], None]) -> Sharing | None:
        """How a sweep with trials of this shape shares a cluster of others; None: it has one of its own."""
        wanted = self.base.cluster
        if not ray_address(wanted.address):
            return None
        cluster, hosts = self.get()
        notes = Notes("sweeps", f"{sweep} ({this_process()})")
        sharing = Sharing(cluster, hosts, shape, notes, wanted.priority, wanted.yield_after, tell)
        self._open.callback(sharing.leave)
        return sharing

    def _shape(self, cluster: Cluster, config: RunConfig) -> Shape:
        return shape_of(cluster, config, self._swept)

    def _started(self) -> Cluster:
        return self._open.enter_context(Cluster(ray_address(self.base.cluster.address)))

    def _opened(self, started: Future[Cluster]) -> HostPool:
        wanted, cluster = self.base.cluster, started.result()
        most = min(self._trials, wanted.max_trials or self._trials)
        hosts = self._open.enter_context(HostPool(cluster, worker, most))
        if "cluster.ranks" not in self._swept:
            shape = self._shape(cluster, self.base)
            cluster.room(shape.resources)
            hosts.arrange((), [shape] * most)
        return hosts


def shape_of(cluster: Cluster, config: RunConfig, swept: Collection[str]) -> Shape:
    """What a trial of a sweep over the keys ``swept`` needs of a host."""
    from ftcluster.training.bench import trials_per_host  # brings torch

    wanted = config.cluster
    resources = cluster.resources(
        wanted.cpus,
        wanted.gpus,
        wanted.ranks,
        gpu_type=wanted.gpu_type,
        gpu_memory=round(wanted.gpu_memory_gib * 2**30),
    )
    return Shape(resources, trials_per_host(config, swept, gpus=resources.gpus > 0))
