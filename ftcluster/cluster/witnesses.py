"""One small actor on every node of a Ray cluster, to ask each node the same question and hear who does not answer.

A witness reserves nothing, so it also comes up on a node that is full. Owns their lives, and no judgement of what they
say.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ftcluster.cluster import all_reduce
from ftcluster.cluster.inventory import Inventory, Node
from ftcluster.cluster.machine import read_inventory
from ftcluster.cluster.probe import chosen_probe
from ftcluster.errors import FtclusterError

TIMEOUT = 30.0  # seconds; a first worker of a busy node takes 10 to come up
_CLOCK_READINGS = 3


@dataclass(frozen=True)
class Answer:
    """What a node said, or why it said nothing."""

    value: Any = None
    problem: str = ""


@dataclass(frozen=True)
class Clock:
    """Seconds that a node's clock is ahead of ours, and how wrong that may be."""

    ahead: float
    uncertainty: float


class _Witness:
    """Runs on a node."""

    def inventory(self) -> Inventory:
        return read_inventory(chosen_probe())

    def clock(self) -> float:
        return time.time()

    def free_port(self) -> int:
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    def share(self, folder: str, token: str) -> str:
        return see_and_write(Path(folder), token)

    def all_reduce(self, meeting: all_reduce.Meeting, timeout: float) -> all_reduce.Result:
        return all_reduce.finish([all_reduce.start(meeting)], timeout)[0]


class Witnesses:
    """Use as a context manager, inside a connection to Ray; all witnesses end with it."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self._timeout = timeout
        actor = ray.remote(_Witness)
        known = ray.nodes()
        alive = [node for node in known if node["Alive"]]
        self.gone = len(known) - len(alive)  # nodes that were part of the cluster and are not any more
        by_place = sorted(alive, key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))
        self._nodes = {node["NodeID"]: node for node in by_place}
        self._actors = {
            name: actor.options(
                num_cpus=0, num_gpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)
            ).remote()
            for name in self._nodes
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors.values():
            with suppress(Exception):  # its node, or the whole cluster, may have gone meanwhile
                self._ray.kill(actor, no_restart=True)

    def nodes(self) -> tuple[Node, ...]:
        """Every node with what it has; one that does not answer says so in its ``problem``."""
        answers, free = self.ask("inventory"), self._free()
        return tuple(_node(self._nodes[name], free.get(name), answer) for name, answer in answers.items())

    def ask(self, method: str, *arguments: Any) -> dict[str, Answer]:
        """Every node the same question at once, by the node's id."""
        return self._gather({name: getattr(actor, method).remote(*arguments) for name, actor in self._actors.items()})

    def clocks(self) -> dict[str, Clock]:
        """Of the nodes that answer; each is asked alone and a few times, and the fastest reply counts."""
        answering = [name for name, answer in self.ask("clock").items() if not answer.problem]
        return {name: min((self._clock(name) for _ in range(_CLOCK_READINGS)), key=_uncertain) for name in answering}

    def all_reduce(self, first: tuple[str, str], second: tuple[str, str], timeout: float) -> all_reduce.Result:
        """A real all-reduce between two nodes, each given by its id and the UUID of a GPU to use, or nothing."""
        host = first[0]
        port = self._gather({host: self._actors[host].free_port.remote()})[host]
        if port.problem:
            return all_reduce.Result(problem=port.problem)
        place = f"tcp://{self._nodes[host]['NodeManagerAddress']}:{port.value}"
        ranks = {
            name: self._actors[name].all_reduce.remote(all_reduce.Meeting(place, rank, gpu), timeout)
            for rank, (name, gpu) in enumerate((first, second))
        }
        answers = self._gather(ranks, timeout + self._timeout)
        results = [answer.value or all_reduce.Result(problem=answer.problem) for answer in answers.values()]
        return next((result for result in results if result.problem), results[0])

    def _clock(self, name: str) -> Clock:
        asked = time.time()
        try:
            told = self._ray.get(self._actors[name].clock.remote(), timeout=self._timeout)
        except self._ray.exceptions.RayError:
            return Clock(0.0, float("inf"))
        heard = time.time()
        return Clock(told - (asked + heard) / 2, (heard - asked) / 2)

    def _gather(self, asked: Mapping[str, Any], timeout: float = 0.0) -> dict[str, Answer]:
        timeout = timeout or self._timeout
        ready = set(self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout)[0]) if asked else ()
        late = Answer(problem=f"it did not answer within {timeout:g} seconds")
        return {name: self._answer(handle) if handle in ready else late for name, handle in asked.items()}

    def _answer(self, handle: Any) -> Answer:
        try:
            return Answer(self._ray.get(handle))
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)  # its own text is a traceback
            if isinstance(cause, FtclusterError):  # such as a broken script of GPUs
                return Answer(problem=f"{cause.where}: {cause.message}".removeprefix(": "))
            return Answer(problem=_first_line(cause or error))

    def _free(self) -> dict[str, dict[str, float]]:
        """What no one has reserved, by node id; not known through a Ray client."""
        from ray._private.state import available_resources_per_node
        from ray.util.client import ray as client

        if client.is_connected():
            return {}
        found: dict[str, dict[str, float]] = available_resources_per_node()
        return found


def see_and_write(folder: Path, token: str) -> str:
    """Whether this machine sees a file that another wrote into ``folder``, and may write there; empty: both.

    The file's name is new, so a network file system cannot answer from what it remembers.
    """
    try:
        if (folder / token).read_text() != token:
            return "it sees another file"
    except OSError as error:
        return f"it does not see {folder}: {error.strerror}"
    mine = folder / f"{token}.{socket.gethostname()}.{time.monotonic_ns()}"
    try:
        mine.write_text(token)
        mine.unlink()
    except OSError as error:
        return f"it cannot write to {folder}: {error.strerror}"
    return ""


def _node(told: Mapping[str, Any], free: Mapping[str, float] | None, answer: Answer) -> Node:
    """Ray leaves out resources that are used up."""
    total = told["Resources"]
    return Node(
        id=told["NodeID"],
        address=told["NodeManagerAddress"],
        cpus=total.get("CPU", 0.0),
        gpus=total.get("GPU", 0.0),
        free_cpus=None if free is None else free.get("CPU", 0.0),
        free_gpus=None if free is None else free.get("GPU", 0.0),
        inventory=answer.value,
        problem=answer.problem,
    )


def _uncertain(clock: Clock) -> float:
    return clock.uncertainty


def _first_line(error: object) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
