"""What the checks look at: where things should be, and what was read once for several of them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ftcluster.cluster.inventory import GpuReading, Node, TorchBuild
from ftcluster.cluster.machine import read_gpus, read_torch_build
from ftcluster.cluster.probe import chosen_probe

if TYPE_CHECKING:
    from ftcluster.cluster.witnesses import Witnesses


NO_CLUSTER = ("", "local")  # addresses that start a Ray on this machine when a sweep needs it


@dataclass(frozen=True)
class Place:
    """Where things should be. ``quick``: nothing is started, no cluster is joined."""

    home: Path
    tracking_uri: str
    ray_address: str
    port: int
    quick: bool = False


class Facts:
    """Read on first use; use as a context manager, since a cluster may have been joined."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._stack = ExitStack()
        self.joinable = True  # until a check finds out that the cluster is not there

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def reading(self) -> GpuReading:
        """This machine's GPUs."""
        return read_gpus(chosen_probe())

    @cached_property
    def build(self) -> TorchBuild:
        """The installed torch."""
        return read_torch_build()

    @cached_property
    def witnesses(self) -> Witnesses | None:
        """On every node of the cluster, if there is one to join.

        Raises:
            UsageError: it cannot be joined.
        """
        if self.place.quick or self.place.ray_address in NO_CLUSTER or not self.joinable:
            return None
        from ftcluster.cluster.joining import looking_around
        from ftcluster.cluster.witnesses import TIMEOUT

        self.joinable = False  # a second try would only wait as long again
        return self._stack.enter_context(looking_around(self.place.ray_address, TIMEOUT))

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The cluster's nodes; none without a cluster."""
        return self.witnesses.nodes() if self.witnesses else ()
