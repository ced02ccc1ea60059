"""Hosts without processes, on nodes that are numbers, for tests of where trials go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ftcluster.cluster.host import Arrival, HostLostError
from ftcluster.cluster.placement import NodeRoom, Resources, Where, place, together, without
from ftcluster.sweep.hosts import HostPool, Shape, Wish

SMALL, LARGE = Shape(Resources(1, 1)), Shape(Resources(1, 1, ranks=2))


class SimpleHost:
    """A host without a process."""

    def __init__(self, number: int, nodes: tuple[str, ...], jobs: int) -> None:
        self.number, self.nodes, self.jobs = number, nodes, jobs
        self.killed, self.broken = False, ""

    def arrival(self) -> str:
        return f"arrival {self.number}"

    def kill(self) -> None:
        self.killed = True


class SimpleCluster:
    """Nodes with GPUs; every handle has ended, but those of hosts that are still to come up."""

    def __init__(self, **gpus: int) -> None:
        self.all = [NodeRoom(name, 64, count) for name, count in gpus.items()]
        self.started: list[SimpleHost] = []
        self.waiting: set[str] = set()
        self.dying: set[str] = set()
        self.unfit: set[str] = set()

    def suitable(self, _: Resources) -> list[NodeRoom]:
        return self.all

    def where(self, wanted: Resources, excluded: frozenset[str]) -> Where:
        return Where(together(self.all, wanted), None, excluded)

    def start(self, resources: Resources, factory: Callable[[], Any], jobs: int, where: Where) -> SimpleHost:  # noqa: ARG002
        left = without(self.all, where.excluded)
        for host in self.started:
            if not host.killed:
                left = [node.less(resources, host.nodes.count(node.id)) for node in left]
        nodes = place(left, resources, on_one_node=where.on_one_node)
        assert nodes, "a host was started where none fits"
        self.started.append(SimpleHost(len(self.started), nodes, jobs))
        return self.started[-1]

    def wait(self, handles: list[str], timeout: float) -> list[str]:  # noqa: ARG002
        return [handle for handle in handles if handle not in self.waiting]

    def result(self, handle: str) -> Arrival:
        if handle in self.dying:
            raise HostLostError("it died")
        return Arrival(1, ("GPU-b: XID 79",) if handle in self.unfit else ())


def pool(cluster: SimpleCluster, most: int = 8) -> HostPool:
    return HostPool(cast(Any, cluster), lambda _: object, most)


def opened(cluster: SimpleCluster, most: int = 8, shape: Shape = SMALL) -> HostPool:
    """With hosts that are up wherever there is room."""
    hosts = pool(cluster, most)
    hosts.arrange([], [shape] * most)
    hosts.wait([], 0)
    return hosts


def taken(hosts: HostPool, wish: Wish) -> Any:
    host = hosts.take(wish)
    assert host is not None
    return host
