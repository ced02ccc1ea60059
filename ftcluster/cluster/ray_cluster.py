"""The Ray cluster: an embedded one on this machine, or a real one by address."""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from ftcluster.cluster.draining import draining_nodes
from ftcluster.cluster.host import Host, HostLostError
from ftcluster.cluster.own_gpus import suits
from ftcluster.cluster.placement import NodeRoom, Resources, Where, hosts_that_fit, together
from ftcluster.cluster.witnesses import Witnesses
from ftcluster.config.environment import keep_ray_local
from ftcluster.errors import UsageError
from ftcluster.units import format_bytes

_OBJECT_STORE = 128 * 2**20  # jobs and reports are kilobytes; weights never travel through Ray
_NEWS = 1.0  # seconds that what is known of the nodes is good for
_REMEDY = "check the address (or RAY_ADDRESS), or leave it empty for an embedded cluster"
_ADDRESS = re.compile(r"^(?:ray://)?(?P<host>[^/:]+):(?P<port>\d+)$")


def import_ray(address: str) -> Any:
    """Ray, for a cluster at this address; it decides at its import which addresses it may use."""
    if not address:
        keep_ray_local()
    import ray

    return ray


class Cluster:
    """A connection to Ray; use as a context manager.

    Raises:
        UsageError: an address nobody answers at, or a request larger than the whole cluster.
    """

    def __init__(self, address: str = "") -> None:
        if address and (problem := _unreachable(address)):
            raise UsageError(problem, where="cluster.address", remedy=_REMEDY)
        self._ray = import_ray(address)
        self._known: list[NodeRoom] = []
        self._leaving: dict[str, float] = {}
        self._old = 0.0  # when what is known of the nodes is
        self._suitable: dict[tuple[frozenset[str], Resources], frozenset[str]] = {}
        self._usual_gpus: float | None = None
        self._mine = not self._ray.is_initialized()
        if not self._mine:
            return
        # Without an address Ray would look one up by itself; "local" makes sure it starts its own.
        own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        try:
            self._ray.init(
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

    def resources(
        self, cpus: float, gpus: float, ranks: int = 1, *, gpu_type: str = "", gpu_memory: int = 0
    ) -> Resources:
        """What a trial reserves for each rank: ``gpus`` of -1 is one where the cluster has any, else none.

        The first answer counts: trials on GPUs and on CPUs, because nodes come and go, could not be compared.
        """
        if gpus < 0:
            if self._usual_gpus is None:
                self._usual_gpus = 1.0 if self._ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
            gpus = self._usual_gpus
        return Resources(cpus, gpus, ranks, gpu_type, gpu_memory)

    def nodes(self) -> list[NodeRoom]:
        """What the nodes have in all that are there to stay; as of a second ago."""
        if time.monotonic() >= self._old:
            self._leaving = draining_nodes()
            known = [node for node in self._ray.nodes() if node["Alive"] and node["NodeID"] not in self._leaving]
            self._known = [
                NodeRoom(node["NodeID"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
                for node in known
            ]
            self._old = time.monotonic() + _NEWS
        return self._known

    def there(self) -> frozenset[str]:
        """The ids of the nodes that are there to stay, as of now."""
        self._old = 0.0
        return frozenset(node.id for node in self.nodes())

    def leaving(self) -> dict[str, float]:
        """Seconds left of the nodes that were told to leave the cluster, by their ids."""
        self.nodes()
        return self._leaving

    def unused(self, kind: str) -> float:
        """CPUs or GPUs (``CPU``, ``GPU``) that nobody has reserved, as of a moment ago."""
        return float(self._ray.available_resources().get(kind, 0.0))

    def suitable(self, wanted: Resources) -> list[NodeRoom]:
        """The nodes with GPUs of the kind that is asked for; all, where any will do."""
        nodes = self.nodes()
        if not wanted.chooses:
            return nodes
        ids = frozenset(node.id for node in nodes if node.gpus)
        if (ids, wanted) not in self._suitable:
            with Witnesses() as witnesses:
                told = {node.id: node.inventory.gpus.gpus for node in witnesses.nodes() if node.inventory}
            here = frozenset(name for name in ids if any(suits(gpu, wanted) for gpu in told.get(name, ())))
            if not ids <= told.keys():  # one that is silent now may answer the next time
                return [node for node in nodes if node.id in here]
            self._suitable[ids, wanted] = here
        return [node for node in nodes if node.id in self._suitable[ids, wanted]]

    def room(self, wanted: Resources) -> int:
        """How many hosts of this size fit on the cluster's nodes, as far as can be told: ranks may lie unluckily.

        Raises:
            UsageError: not even one.
        """
        nodes = self.suitable(wanted)
        if wanted.chooses and not nodes:
            least = f"with {format_bytes(wanted.gpu_memory)} or more" if wanted.gpu_memory else ""
            kind = f"{wanted.gpu_type} {least}".strip()
            raise UsageError(
                f"no node of the cluster has a GPU of the kind that a trial asks for ({kind})",
                where="cluster.gpu_type, cluster.gpu_memory_gib",
                remedy="`ftcluster cluster status` lists the GPUs there are",
            )
        if count := hosts_that_fit(nodes, wanted):
            return count
        places = sum(node.fits(wanted) for node in nodes)
        if places == 0:
            cpus, gpus = (max((room(node) for node in nodes), default=0) for room in (_cpus, _gpus))
            raise UsageError(
                f"a trial asks for {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs; the largest node has "
                f"{cpus:g} and {gpus:g}",
                where="cluster.cpus, cluster.gpus",
                remedy="ask for less, or add a node that has it",
            )
        raise UsageError(
            f"a trial asks for {wanted.ranks} ranks of {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs; "
            f"the cluster has room for {places}",
            where="cluster.ranks",
            remedy="ask for less, or add a node",
        )

    def where(self, wanted: Resources, excluded: frozenset[str] = frozenset()) -> Where:
        """The nodes that a host of this size may be on."""
        nodes = [node for node in self.suitable(wanted) if node.id not in excluded]
        among = frozenset(node.id for node in nodes) if wanted.chooses else None
        return Where(together(nodes, wanted), among, excluded)

    def start(
        self, resources: Resources, factory: Callable[[], Any], jobs: int = 1, where: Where | None = None
    ) -> Host:
        """Start a host for at most ``jobs`` at a time; ``factory`` makes a worker there for each rank."""
        return Host(resources, factory, jobs, where or self.where(resources))

    def wait(self, jobs: Sequence[Any], timeout: float) -> list[Any]:
        """Those of ``jobs`` that have ended, as soon as there is one or after ``timeout`` seconds."""
        if not jobs:
            time.sleep(timeout)  # whoever waits for nothing would ask again and again
            return []
        if not self._ray.wait(list(jobs), num_returns=1, timeout=timeout)[0]:
            return []
        return list(self._ray.wait(list(jobs), num_returns=len(jobs), timeout=0)[0])

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


def _cpus(node: NodeRoom) -> float:
    return node.cpus


def _gpus(node: NodeRoom) -> float:
    return node.gpus
