"""The checks behind ``ftcluster doctor``: each looks at one thing and says ok, warn or fail, with a remedy.

Nothing is installed, changed or left behind. Without ``quick`` two processes are started for an all-reduce and, where a
cluster is configured, it is joined and one small actor looks around on every node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ftcluster.cli.diagnosis import hardware, network, nodes, software, storage
from ftcluster.cli.diagnosis.facts import Facts, Place
from ftcluster.cli.diagnosis.finding import Finding
from ftcluster.cli.diagnosis.network import port_is_free
from ftcluster.cluster.machine import read_machine, read_versions
from ftcluster.errors import FtclusterError

__all__ = ["CHECKS", "Facts", "Finding", "Place", "diagnose", "port_is_free"]


class Check(NamedTuple):
    """One row of the table."""

    name: str
    look: Callable[[Facts], Iterable[Finding]]


def diagnose(
    place: Place, starting: Callable[[str], None] = lambda _: None, checks: Iterable[Check] | None = None
) -> Iterator[Finding]:
    """All checks, the quick ones first; ``starting`` hears the name of each before it is made."""
    with Facts(place) as facts:
        for check in CHECKS if checks is None else checks:
            starting(check.name)
            try:
                yield from check.look(facts)
            except FtclusterError as error:
                yield Finding(check.name, "fail", f"{error.where}: {error.message}".removeprefix(": "), error.remedy)


def _ray(facts: Facts) -> Iterator[Finding]:
    finding = network.ray_cluster(facts.place.ray_address)
    facts.joinable = finding.state == "ok"
    yield finding


def _clocks(facts: Facts) -> Iterator[Finding]:
    if facts.witnesses:
        yield nodes.clocks_agree(facts.witnesses.clocks(), _names(facts))


def _shared_home(facts: Facts) -> Iterator[Finding]:
    if facts.witnesses:
        yield nodes.home_is_shared(facts.witnesses, facts.place.home, _names(facts))


def _all_reduce(facts: Facts) -> Iterator[Finding]:
    if not facts.place.quick:
        yield from network.all_reduce_here(facts.reading)
    if facts.witnesses:
        yield from nodes.all_reduce_between(facts.witnesses, facts.nodes)


def _ports(facts: Facts) -> Iterator[Finding]:
    yield network.free_port(facts.place.port)
    if not facts.place.ray_address:
        yield network.free_head_ports()


def _names(facts: Facts) -> dict[str, str]:
    return {node.id: node.name for node in facts.nodes}


CHECKS = (
    Check("Python", lambda _: [software.python()]),
    Check("packages", lambda _: software.packages()),
    Check("machine", lambda _: [hardware.processors(read_machine())]),
    Check("GPUs", lambda facts: hardware.gpus(facts.reading)),
    Check("torch build", lambda facts: [software.torch_matches(facts.build, facts.reading)]),
    Check("home", lambda facts: storage.home_folder(facts.place.home)),
    Check("MLflow", lambda facts: [storage.mlflow_store(facts.place.tracking_uri)]),
    Check("ports", _ports),
    Check("Ray", _ray),
    Check("DeepSpeed", lambda facts: software.deepspeed(facts.build, start=not facts.place.quick)),
    Check("nodes", lambda facts: nodes.nodes_answer(facts.nodes)),
    Check("versions", lambda facts: nodes.versions_agree(read_versions(), facts.nodes)),
    Check("clocks", _clocks),
    Check("shared home", _shared_home),
    Check("all-reduce", _all_reduce),
)
