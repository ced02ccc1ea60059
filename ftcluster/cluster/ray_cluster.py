"""The Ray cluster: an embedded one on this machine, or a real one by address; hosts are actors on it.

A host holds one long-lived worker object, so that imports and the base model are paid once per host and not
per trial. What the worker does is none of this module's business: it is made by a factory on the host.

A host of several ranks is a placement group of such actors: all of it is reserved or nothing, on one node where that
is large enough. Jobs go to rank 0; the others follow it, from where it says that they meet. With one rank gone the
host is lost.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ftcluster.config.environment import keep_ray_local
from ftcluster.errors import FtclusterError, UsageError

_OBJECT_STORE = 128 * 2**20  # jobs and reports are kilobytes; weights never travel through Ray


_REMEDY = "check the address (or RAY_ADDRESS), or leave it empty for an embedded cluster"
_ADDRESS = re.compile(r"^(?:ray://)?(?P<host>[^/:]+):(?P<port>\d+)$")


class HostLostError(FtclusterError):
    """The host's process or its node is gone; the trial it ran can be resumed elsewhere."""

    retryable = True


@dataclass(frozen=True)
class Resources:
    """What one rank of a host reserves; fractions are allowed."""

    cpus: float
    gpus: float
    ranks: int = 1


class _HostActor:
    """Runs inside the host process; ``peek`` and ``stop`` come in beside running jobs."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._worker = factory()

    def run(self, job: Any) -> Any:
        return self._worker.run(job)

    def peek(self) -> Any:
        return self._worker.peek()

    def stop(self) -> None:
        self._worker.stop()

    def pid(self, *_others: Any) -> int:
        """This process's; Ray calls it once ``_others`` have ended."""
        return os.getpid()

    def meet(self, ranks: int) -> Any:
        """On rank 0: where the others find it."""
        import ray

        return self._worker.meet(ray.util.get_node_ip_address(), ranks)

    def follow(self, meeting: Any, rank: int) -> None:
        self._worker.follow(meeting, rank)


class Host:
    """A handle on a host, at the driver's side."""

    def __init__(self, resources: Resources, factory: Callable[[], Any], jobs: int, *, together: bool) -> None:
        """``together``: all ranks on one node."""
        import ray

        self._group: Any = None
        placing: dict[str, Any] = {}
        if resources.ranks > 1:
            bundle = {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})}
            strategy = "STRICT_PACK" if together else "PACK"
            self._group = ray.util.placement_group([bundle] * resources.ranks, strategy=strategy)
            scheduling = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        actors = []
        for rank in range(resources.ranks):
            if self._group is not None:
                placing = {"scheduling_strategy": scheduling(self._group, placement_group_bundle_index=rank)}
            # A thread for every job, and one more: running jobs must not block questions about them.
            options = {"max_concurrency": jobs + 1, "max_restarts": 0, **placing}
            actor = ray.remote(_HostActor).options(num_cpus=resources.cpus, num_gpus=resources.gpus, **options)
            actors.append(actor.remote(factory))
        self._actor, self._others = actors[0], actors[1:]
        self._meeting: list[Any] = []
        self._following: list[Any] = []
        if self._others:
            self._meeting = [self._actor.meet.remote(resources.ranks)]
            self._following = [other.follow.remote(*self._meeting, rank) for rank, other in enumerate(self._others, 1)]
        self._asked: Any = None
        self._seen: Any = None

    def submit(self, job: Any) -> Any:
        """Start a job beside those that run; the returned handle goes to ``wait`` and ``result``."""
        return self._actor.run.remote(job)

    def peek(self) -> Any:
        """The newest known state of the running jobs; never waits, so it may be one call old."""
        import ray

        if self._asked is None:
            self._asked = self._actor.peek.remote()
        elif ray.wait([self._asked], timeout=0)[0]:
            try:
                self._seen = ray.get(self._asked)
            except ray.exceptions.RayError:
                self._seen = None
            self._asked = None
        return self._seen

    def stop(self) -> None:
        """Ask the running jobs to save and return."""
        self._actor.stop.remote()

    def placed(self) -> Any:
        """A handle that ends, with rank 0's process id on its node, once all ranks have found a place and started."""
        return self._actor.pid.remote(*self._meeting, *(other.pid.remote() for other in self._others))

    @property
    def broken(self) -> bool:
        """Whether a rank but the first has left or is gone; never waits."""
        import ray

        return bool(self._following and ray.wait(self._following, timeout=0)[0])

    def kill(self) -> None:
        """End the host's processes and free what they reserved."""
        import ray

        for actor in (self._actor, *self._others):
            ray.kill(actor, no_restart=True)
        if self._group is not None:
            ray.util.remove_placement_group(self._group)


class Cluster:
    """A connection to Ray; use as a context manager.

    Raises:
        UsageError: an address nobody answers at, or a request larger than the whole cluster.
    """

    def __init__(self, address: str = "") -> None:
        if not address:
            keep_ray_local()
        elif problem := _unreachable(address):
            raise UsageError(problem, where="cluster.address", remedy=_REMEDY)
        # Ray decides at its import which addresses it may use, so it is imported here and not above.
        import ray

        self._ray = ray
        self._mine = not ray.is_initialized()
        if not self._mine:
            return
        # Without an address Ray would look one up by itself; "local" makes sure it starts its own.
        own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        try:
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else own),
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster at {address or 'this machine'}: {error}", remedy=_REMEDY) from error

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._mine:
            self._ray.shutdown()

    def resources(self, cpus: float, gpus: float, ranks: int = 1) -> Resources:
        """What a trial reserves for each rank: ``gpus`` of -1 is one where the cluster has any, else none."""
        if gpus < 0:
            gpus = 1.0 if self._ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
        return Resources(cpus, gpus, ranks)

    def room(self, wanted: Resources) -> int:
        """How many hosts of this size fit on the cluster's nodes, as far as can be told: ranks may lie unluckily.

        Raises:
            UsageError: not even one.
        """
        nodes = self._nodes()
        places = [_fits(node, wanted) for node in nodes]
        whole = sum(place // wanted.ranks for place in places)
        count = whole or sum(places) // wanted.ranks
        if sum(places) == 0:
            largest = {key: max((n.get(key, 0) for n in nodes), default=0) for key in ("CPU", "GPU")}
            raise UsageError(
                f"a trial asks for {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs; the largest node has "
                f"{largest['CPU']:g} and {largest['GPU']:g}",
                where="cluster.cpus, cluster.gpus",
                remedy="ask for less, or add a node that has it",
            )
        if count == 0:
            raise UsageError(
                f"a trial asks for {wanted.ranks} ranks of {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs; "
                f"the cluster has room for {sum(places)}",
                where="cluster.ranks",
                remedy="ask for less, or add a node",
            )
        return count

    def start(self, resources: Resources, factory: Callable[[], Any], jobs: int = 1) -> Host:
        """Start a host for at most ``jobs`` at a time; ``factory`` makes a worker there for each rank."""
        together = any(_fits(node, resources) >= resources.ranks for node in self._nodes())
        return Host(resources, factory, jobs, together=together)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def wait(self, jobs: Sequence[Any], timeout: float) -> list[Any]:
        """Those of ``jobs`` that ended within ``timeout`` seconds."""
        if not jobs:
            return []
        return list(self._ray.wait(list(jobs), num_returns=1, timeout=timeout)[0])

    def result(self, job: Any) -> Any:
        """What an ended job returned.

        Raises:
            HostLostError: its process or node is gone.
        """
        try:
            return self._ray.get(job)
        except self._ray.exceptions.RayError as error:
            raise HostLostError(f"the host was lost: {str(error).splitlines()[0]}") from error


def _unreachable(address: str) -> str:
    """Why nobody answers at ``host:port``; Ray itself would end this process when nobody does."""
    found = _ADDRESS.match(address)
    if not found:  # "auto", or a form only Ray knows
        return ""
    try:
        socket.create_connection((found["host"], int(found["port"])), timeout=10).close()
    except OSError as error:
        return f"no Ray cluster at {address}: {error.strerror or error}"
    return ""


def _fits(node: dict[str, float], wanted: Resources) -> int:
    shares = [
        math.floor(node.get(key, 0) / amount + 1e-9)
        for key, amount in (("CPU", wanted.cpus), ("GPU", wanted.gpus))
        if amount > 0
    ]
    return min(shares, default=1)
