"""Where hosts fit: pure arithmetic on what nodes have and what a host reserves."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

_NODE = "ray.io/node-id"  # the label in which Ray keeps it
_LEAST = 0.001  # of a CPU: a host that asks for nothing still has to be on some node


@dataclass(frozen=True)
class Resources:
    """What one rank of a host reserves; fractions are allowed. ``gpu_type`` and ``gpu_memory`` choose among GPUs."""

    cpus: float
    gpus: float
    ranks: int = 1
    gpu_type: str = ""  # part of the name that its driver tells, in capitals or not
    gpu_memory: int = 0  # bytes that each GPU has at least

    @property
    def bundle(self) -> dict[str, float]:
        """As Ray is told of a rank."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return {name: amount for name, amount in wanted.items() if amount > 0} or {"CPU": _LEAST}

    @property
    def kind(self) -> str:
        """What there is too little of where many want it: ``GPU``, or ``CPU`` for a host without."""
        return "GPU" if self.gpus > 0 else "CPU"

    @property
    def amount(self) -> float:
        """How much of it all ranks reserve together."""
        return self.ranks * self.bundle[self.kind]

    @property
    def chooses(self) -> bool:
        """Whether not every GPU will do."""
        return bool(self.gpus > 0 and (self.gpu_type or self.gpu_memory))


@dataclass(frozen=True)
class Where:
    """The nodes that a host may be on: all its ranks on one of them, or over several."""

    on_one_node: bool = True
    among: frozenset[str] | None = None  # node ids; None: any
    excluded: frozenset[str] = frozenset()

    @property
    def selector(self) -> dict[str, str]:
        """As Ray is told: conditions on a node's labels."""
        if self.among is not None:
            return {_NODE: f"in({','.join(sorted(self.among - self.excluded))})"}
        return {_NODE: f"!in({','.join(sorted(self.excluded))})"} if self.excluded else {}


@dataclass(frozen=True)
class NodeRoom:
    """CPUs and GPUs of a node: all it has, or what is left."""

    id: str
    cpus: float
    gpus: float

    def fits(self, wanted: Resources) -> int:
        """How many ranks."""
        pairs = ((self.cpus, wanted.cpus), (self.gpus, wanted.gpus))
        return max(0, min((math.floor(has / amount + 1e-9) for has, amount in pairs if amount > 0), default=2**16))

    def less(self, wanted: Resources, ranks: int) -> NodeRoom:
        """What is left once that many ranks are there."""
        return replace(self, cpus=self.cpus - ranks * wanted.cpus, gpus=self.gpus - ranks * wanted.gpus)


def together(nodes: Iterable[NodeRoom], wanted: Resources) -> bool:
    """Whether all ranks belong on one node: some node is large enough."""
    return any(node.fits(wanted) >= wanted.ranks for node in nodes)


def place(left: Sequence[NodeRoom], wanted: Resources, *, on_one_node: bool) -> tuple[str, ...]:
    """A node's id for each rank; empty where there is no room. The fullest nodes that will do are taken first."""
    by_room = sorted((node for node in left if node.fits(wanted)), key=lambda node: (node.fits(wanted), node.id))
    if on_one_node:
        found = next((node for node in by_room if node.fits(wanted) >= wanted.ranks), None)
        return (found.id,) * wanted.ranks if found else ()
    places = [node.id for node in reversed(by_room) for _ in range(node.fits(wanted))]
    return tuple(places[: wanted.ranks]) if len(places) >= wanted.ranks else ()


def left_over(nodes: Iterable[NodeRoom], held: Iterable[tuple[Resources, Sequence[str]]]) -> list[NodeRoom]:
    """What nodes have beside hosts, each given by what a rank reserves and the nodes of its ranks."""
    left = {node.id: node for node in nodes}
    for resources, places in held:
        for node in places:
            if node in left:
                left[node] = left[node].less(resources, 1)
    return list(left.values())


def hosts_that_fit(nodes: Sequence[NodeRoom], wanted: Resources) -> int:
    """On nodes that nothing else uses, as far as can be told: ranks over several nodes may lie unluckily."""
    places = [node.fits(wanted) for node in nodes]
    return sum(place // wanted.ranks for place in places) or sum(places) // wanted.ranks


def without(nodes: Iterable[NodeRoom], excluded: Collection[str]) -> list[NodeRoom]:
    """The nodes that are not excluded by their ids."""
    return [node for node in nodes if node.id not in excluded]
