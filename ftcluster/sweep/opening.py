"""The cluster and the hosts of a sweep; on this machine they open while torch is imported and data prepared.

The thread that opens them must not import torch as well: the two could see half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from ftcluster.cluster.notes import Notes
from ftcluster.cluster.placement import Resources
from ftcluster.cluster.ray_cluster import Cluster, import_ray
from ftcluster.config.compose import from_dict
from ftcluster.config.environment import ray_address
from ftcluster.config.schema import RunConfig
from ftcluster.ledger.process import this_process
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.bundles import swept_keys, trials_at_most
from ftcluster.sweep.control import check_resumable, specification
from ftcluster.sweep.hosts import HostPool, Shape, Wish
from ftcluster.sweep.sharing import Sharing
from ftcluster.sweep.space import Space, levels
from ftcluster.sweep.workers import worker
from ftcluster.training.places import places_at_most, trials_per_host


class Opening:
    """Use as a context manager: cluster and hosts end with it."""

    def __init__(self, base: RunConfig, trials: int, swept: Collection[str]) -> None:
        """For a sweep of at most ``trials`` trials over the keys ``swept``."""
        self.base, self._trials, self._swept = base, trials, swept
        self._open = ExitStack()
        self._thread = ThreadPoolExecutor(1, "opening")
        self._opening: Future[tuple[Cluster, HostPool]] | None = None
        self._ending: Future[None] | None = None

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
            self._end().result()
        finally:
            self._thread.shutdown()  # last: Linux ends Ray's processes with the thread that started them

    def begin(self) -> None:
        """Open an embedded cluster beside whatever goes on; one of others is not kept waiting for data."""
        if not ray_address(self.base.cluster.address):
            # Of what this thread and the other one import from now on, only packages without cycles are the same.
            import_ray("")
            import numpy  # noqa: F401

            self._begin()

    def get(self) -> tuple[Cluster, HostPool]:
        """Both of them, once they are there.

        Raises:
            UsageError: no cluster at the address, or a host is larger than every node.
        """
        return self._begin().result()

    def end(self) -> None:
        """Let them go beside whatever is still to be done."""
        self._end()

    def _begin(self) -> Future[tuple[Cluster, HostPool]]:
        if self._opening is None:
            self._opening = self._thread.submit(self._opened)
        return self._opening

    def _end(self) -> Future[None]:
        if self._ending is None:
            self._ending = self._thread.submit(self._open.close)
        return self._ending

    def wish(self, config: RunConfig) -> Wish:
        """What a trial of the sweep needs of a host."""
        base = repr((config.model, config.engine, config.adapter.kind == "none"))
        return Wish(self._shape(self.get()[0], config), base=base)

    def shapes(self, space: Space) -> list[Shape]:
        """Those that trials may have, the largest first.

        Raises:
            UsageError: one of them is larger than the whole cluster, or its GPUs are of no kind that is there.
        """
        (cluster, hosts), base = self.get(), self.base
        several = levels(space["cluster.ranks"]) if "cluster.ranks" in space else None
        found = [
            self._shape(cluster, replace(base, cluster=replace(base.cluster, ranks=ranks)))
            for ranks in sorted(several or (base.cluster.ranks,), reverse=True)
        ]
        for shape in found:
            cluster.room(shape.resources)
            hosts.settle(shape)
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

    def _opened(self) -> tuple[Cluster, HostPool]:
        wanted = self.base.cluster
        cluster = self._open.enter_context(Cluster(ray_address(wanted.address)))
        most = min(self._trials, wanted.max_trials or self._trials)
        hosts = self._open.enter_context(HostPool(cluster, worker, most))
        if "cluster.ranks" not in self._swept:
            resources = _resources(cluster, self.base)
            cluster.room(resources)
            hosts.begin(resources, places_at_most(self.base))
        return cluster, hosts


def shape_of(cluster: Cluster, config: RunConfig, swept: Collection[str]) -> Shape:
    """What a trial of a sweep over the keys ``swept`` needs of a host."""
    resources = _resources(cluster, config)
    return Shape(resources, trials_per_host(config, swept, gpus=resources.gpus > 0))


def _resources(cluster: Cluster, config: RunConfig) -> Resources:
    wanted = config.cluster
    return cluster.resources(
        wanted.cpus,
        wanted.gpus,
        wanted.ranks,
        gpu_type=wanted.gpu_type,
        gpu_memory=round(wanted.gpu_memory_gib * 2**30),
    )
