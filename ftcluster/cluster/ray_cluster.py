"""The Ray cluster: an embedded one on this machine, or a real one by address; hosts are actors on it.

A host holds one long-lived worker object, so that imports and the base model are paid once per host and not
per trial. What the worker does is none of this module's business: it is made by a factory on the host.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from ftcluster.errors import FtclusterError, UsageError

_OBJECT_STORE = 128 * 2**20  # jobs and reports are kilobytes; weights never travel through Ray


class HostLostError(FtclusterError):
    """The host's process or its node is gone; the trial it ran can be resumed elsewhere."""

    retryable = True


@dataclass(frozen=True)
class Resources:
    """What one trial reserves; fractions are allowed."""

    cpus: float
    gpus: float


class _HostActor:
    """Runs inside the host process; ``peek`` and ``stop`` come in beside a running job."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._worker = factory()

    def run(self, job: Any) -> Any:
        return self._worker.run(job)

    def peek(self) -> Any:
        return self._worker.peek()

    def stop(self) -> None:
        self._worker.stop()

    def pid(self) -> int:
        return os.getpid()


class Host:
    """A handle on a host, at the driver's side."""

    def __init__(self, number: int, resources: Resources, factory: Callable[[], Any]) -> None:
        self.number = number
        actor = ray.remote(_HostActor)
        # Two threads: a running job must not block questions about it.
        self._actor = actor.options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_concurrency=2, max_restarts=0
        ).remote(factory)
        self._asked: Any = None
        self._seen: Any = None

    def submit(self, job: Any) -> Any:
        """Start a job; the returned handle goes to ``finished`` and ``result``."""
        self._asked = self._seen = None
        return self._actor.run.remote(job)

    def peek(self) -> Any:
        """The newest known state of the running job; never waits, so it may be one call old."""
        if self._asked is None:
            self._asked = self._actor.peek.remote()
        elif ray.wait([self._asked], timeout=0)[0]:
            try:
                self._seen = ray.get(self._asked)
            except RayError:
                self._seen = None
            self._asked = None
        return self._seen

    def stop(self) -> None:
        """Ask the running job to save and return."""
        self._actor.stop.remote()

    def pid(self) -> int:
        """Process id on its node."""
        return int(ray.get(self._actor.pid.remote()))

    def kill(self) -> None:
        """End the host's process and free what it reserved."""
        ray.kill(self._actor, no_restart=True)


class Cluster:
    """A connection to Ray; use as a context manager.

    Raises:
        UsageError: an address nobody answers at, or a request larger than the whole cluster.
    """

    def __init__(self, address: str = "") -> None:
        self._mine = not ray.is_initialized()
        if not self._mine:
            return
        # Ray reads RAY_ADDRESS by itself; "local" makes sure an embedded one is not looked up.
        try:
            if address:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_OBJECT_STORE,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            remedy = "check cluster.address (or RAY_ADDRESS), or leave it empty for an embedded cluster"
            raise UsageError(f"no Ray cluster at {address or 'this machine'}: {error}", remedy=remedy) from error

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._mine:
            ray.shutdown()

    def resources(self, cpus: float, gpus: float) -> Resources:
        """What a trial reserves: ``gpus`` of -1 is one where the cluster has any, else none."""
        if gpus < 0:
            gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
        return Resources(cpus, gpus)

    def room(self, wanted: Resources) -> int:
        """How many hosts of this size fit on the cluster's nodes.

        Raises:
            UsageError: not even one.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count = sum(_fits(node, wanted) for node in nodes)
        if count == 0:
            largest = {key: max((n.get(key, 0) for n in nodes), default=0) for key in ("CPU", "GPU")}
            raise UsageError(
                f"a trial asks for {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs; the largest node has "
                f"{largest['CPU']:g} and {largest['GPU']:g}",
                where="cluster.cpus, cluster.gpus",
                remedy="ask for less, or add a node that has it",
            )
        return count

    def start(self, number: int, resources: Resources, factory: Callable[[], Any]) -> Host:
        """Start a host; its worker is made there by ``factory``."""
        return Host(number, resources, factory)

    def wait(self, jobs: Sequence[Any], timeout: float) -> list[Any]:
        """Those of ``jobs`` that ended within ``timeout`` seconds."""
        if not jobs:
            return []
        return list(ray.wait(list(jobs), num_returns=1, timeout=timeout)[0])

    def result(self, job: Any) -> Any:
        """What an ended job returned.

        Raises:
            HostLostError: its process or node is gone.
        """
        try:
            return ray.get(job)
        except (RayActorError, RayError) as error:
            raise HostLostError(f"the host was lost: {str(error).splitlines()[0]}") from error


def _fits(node: dict[str, float], wanted: Resources) -> int:
    shares = [
        math.floor(node.get(key, 0) / amount + 1e-9)
        for key, amount in (("CPU", wanted.cpus), ("GPU", wanted.gpus))
        if amount > 0
    ]
    return min(shares, default=1)
