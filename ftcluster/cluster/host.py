"""A host: a place for trials on the cluster, kept as long as it is of use, so that imports and the base are paid once.

Its ranks are actors in a placement group: all of them find a place or none does, so two hosts that want the last GPUs
never wait for each other. Jobs go to rank 0; the others follow it, from where it says that they meet. With one rank
gone the host is lost. What a worker does is none of this module's business: a factory makes it on the host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftcluster.cluster.own_gpus import OwnGpus
from ftcluster.cluster.placement import Resources, Where
from ftcluster.errors import FtclusterError

_HEALTH_EVERY = 5.0  # seconds between looks at a host's own GPUs


class HostLostError(FtclusterError):
    """The host's process or its node is gone; the trial it ran can be resumed elsewhere."""

    retryable = True


@dataclass(frozen=True)
class Arrival:
    """A host's first sign of life: rank 0's process on its node, and why its GPUs must not be used."""

    pid: int
    problems: tuple[str, ...] = ()


class _HostActor:
    """Runs inside a rank's process; all but ``run`` and ``follow`` come in beside running jobs."""

    def __init__(self, factory: Callable[[], Any], resources: Resources) -> None:
        self._gpus = OwnGpus(resources) if resources.gpus else None
        self._worker = factory()

    def run(self, job: Any) -> Any:
        return self._worker.run(job)

    def peek(self) -> Any:
        return self._worker.peek()

    def stop(self, job: str) -> None:
        self._worker.stop(job)

    def dump(self, folder: str) -> None:
        self._worker.dump(folder)

    def problems(self) -> tuple[str, ...]:
        return self._gpus.problems() if self._gpus else ()

    def arrive(self, *others: Any) -> Arrival:
        """Ray calls it once ``others`` have ended; what arrivals among them tell is told along."""
        told = [problem for other in others if isinstance(other, Arrival) for problem in other.problems]
        return Arrival(os.getpid(), tuple(dict.fromkeys((*self.problems(), *told))))

    def meet(self, ranks: int) -> Any:
        """On rank 0: where the others find it."""
        import ray

        return self._worker.meet(ray.util.get_node_ip_address(), ranks)

    def follow(self, meeting: Any, rank: int) -> None:
        self._worker.follow(meeting, rank)


class Host:
    """A handle on a host, at the driver's side; nothing here waits."""

    def __init__(self, resources: Resources, factory: Callable[[], Any], jobs: int, where: Where) -> None:
        """For at most ``jobs`` at a time."""
        import ray

        self.resources = resources
        self._nodes: tuple[str, ...] = ()
        self._group = ray.util.placement_group(
            [resources.bundle] * resources.ranks,
            strategy="STRICT_PACK" if where.on_one_node else "PACK",
            bundle_label_selector=[where.selector] * resources.ranks,
        )
        actors = [self._start(rank, factory, jobs) for rank in range(resources.ranks)]
        self._actor, self._others = actors[0], actors[1:]
        self._following: list[Any] = []
        meeting = []
        if self._others:
            meeting = [self._actor.meet.remote(resources.ranks)]
            self._following = [other.follow.remote(*meeting, rank) for rank, other in enumerate(self._others, 1)]
        self._arrival = self._actor.arrive.remote(*meeting, *(other.arrive.remote() for other in self._others))
        self._pulse = _Question(self._actor.peek.remote)
        self._health = [_Question(actor.problems.remote, _HEALTH_EVERY) for actor in actors if resources.gpus]

    def _start(self, rank: int, factory: Callable[[], Any], jobs: int) -> Any:
        import ray

        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        bundle = self.resources.bundle
        actor = ray.remote(_HostActor).options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=strategy(self._group, placement_group_bundle_index=rank),
            # A thread for every job, and one more: running jobs must not block questions about them.
            max_concurrency=jobs + 1,
            max_restarts=0,
        )
        return actor.remote(factory, self.resources)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The node of each rank; empty until all have found a place."""
        import ray

        if not self._nodes:
            table = ray.util.placement_group_table(self._group)
            if table.get("state") == "CREATED":
                places = table["bundles_to_node_id"]
                self._nodes = tuple(places[rank] for rank in sorted(places))
        return self._nodes

    def submit(self, job: Any) -> Any:
        """Start a job beside those that run; the returned handle goes to ``Cluster.wait`` and ``result``."""
        return self._actor.run.remote(job)

    def arrival(self) -> Any:
        """A handle that ends, with an ``Arrival``, once all ranks have found a place and started."""
        return self._arrival

    def peek(self) -> Any:
        """The newest known state of the running jobs; it may be one call old, and None before the first answer."""
        return self._pulse.newest()

    @property
    def problems(self) -> tuple[str, ...]:
        """Why its GPUs must not be used any more, as far as is known."""
        told = [problem for question in self._health for problem in question.newest() or ()]
        return tuple(dict.fromkeys(told))

    def stop(self, job: str = "") -> None:
        """Ask the running jobs, or one of them, to save and return."""
        self._actor.stop.remote(job)

    def dump(self, folder: str) -> None:
        """Have each rank write what all its threads are doing into a folder."""
        for actor in (self._actor, *self._others):
            actor.dump.remote(folder)

    @property
    def broken(self) -> str:
        """Why a rank but the first does not follow any more; empty: all do."""
        import ray

        for rank, following in enumerate(self._following, 1):
            if ray.wait([following], timeout=0)[0]:
                try:
                    ray.get(following)
                except ray.exceptions.RayError as error:
                    return f"rank {rank} is gone: {last_line(error)}"
                return f"rank {rank} has left"
        return ""

    def kill(self) -> None:
        """End the host's processes and free what they reserved."""
        import ray

        for actor in (self._actor, *self._others):
            ray.kill(actor, no_restart=True)
        ray.util.remove_placement_group(self._group)


def last_line(error: Exception) -> str:
    """What an error of Ray's says in the end; above it may be a traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


class _Question:
    """Asked again and again, at most every few seconds; nobody waits for an answer."""

    def __init__(self, ask: Callable[[], Any], every: float = 0.0) -> None:
        self._ask, self._every = ask, every
        self._asked: Any = None
        self._answer: Any = None
        self._next = 0.0

    def newest(self) -> Any:
        """The newest answer so far; None before the first, and from who cannot answer any more."""
        import ray

        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            try:
                self._answer = ray.get(self._asked)
            except ray.exceptions.RayError:
                self._answer = None
            self._asked = None
        if self._asked is None and time.monotonic() >= self._next:
            self._asked, self._next = self._ask(), time.monotonic() + self._every
        return self._answer
