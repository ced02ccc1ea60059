"""Checks over all nodes of a cluster: who answers, versions, clocks, a home that all see, the wire between them."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ftcluster.cli.diagnosis.finding import Finding
from ftcluster.cli.diagnosis.hardware import gpu_health
from ftcluster.cli.diagnosis.network import ALL_REDUCE_SECONDS, all_reduce_finding
from ftcluster.cluster.health import idle_gpus, judge
from ftcluster.cluster.inventory import Node, Versions
from ftcluster.cluster.machine import existing_parent
from ftcluster.units import format_bytes

if TYPE_CHECKING:
    from ftcluster.cluster.witnesses import Answer, Clock, Witnesses

# Nothing we write is ordered by clocks of several nodes, but people and MLflow's pages read times side by side.
SKEW = 2.0  # seconds


def nodes_answer(nodes: Sequence[Node]) -> Iterator[Finding]:
    """A line per node, and one per GPU that has something."""
    for node in nodes:
        if node.inventory is None:
            remedy = "see ray status and ray logs; every node needs the same Python and the same ftcluster"
            yield Finding("node", "fail", f"{node.name}: {node.problem}", remedy)
            continue
        machine, reading = node.inventory.machine, node.inventory.gpus
        judged = [(gpu, judge(gpu)) for gpu in reading.gpus]
        usable = sum(health.state != "unusable" for _, health in judged)
        memory = f"{format_bytes(machine.memory_available)} of {format_bytes(machine.memory_total)} memory available"
        gpus = f"{usable} of {len(judged)} GPUs usable" if judged else "no GPUs"
        yield Finding("node", "ok", f"{node.name}: {node.cpus:g} CPUs, {memory}, {gpus}")
        yield from (gpu_health(gpu, node.name) for gpu, health in judged if health.state != "ok")
        if node.gpus != len(judged):
            detail = f"{node.name}: Ray counts {node.gpus:g} GPUs, the driver {len(judged)}"
            yield Finding("node", "warn", detail, "see CUDA_VISIBLE_DEVICES and --num-gpus where ray start was called")


def versions_agree(here: Versions, nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether the nodes that answer have what this machine has: ranks talk to each other, and trials move."""
    ours, apart = asdict(here), defaultdict[tuple[str, ...], list[str]](list)
    for node in nodes:
        if node.inventory:
            apart[_apart(ours, asdict(node.inventory.versions))].append(node.name)
    alike = apart.pop((), ())
    if apart:
        detail = "; ".join(f"{', '.join(names)}: {', '.join(strange)}" for strange, names in apart.items())
        remedy = "install the same on all nodes and here; pip freeze, there and here, shows all that differs"
        yield Finding("versions", "warn", detail, remedy)
    elif alike:
        shown = ", ".join(f"{name} {version}" for name, version in ours.items() if version)
        yield Finding("versions", "ok", f"all {len(alike)} nodes have those of this machine: {shown}")


def _apart(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[str, ...]:
    """What another node has otherwise, in words."""
    return tuple(
        f"{name} {theirs[name] or 'missing'} (here {ours[name] or 'missing'})"
        for name in ours
        if theirs[name] != ours[name]
    )


def clocks_agree(clocks: Mapping[str, Clock], names: Mapping[str, str]) -> Finding:
    """How far the nodes' clocks are from this machine's."""
    worst = max(clocks, key=lambda node: abs(clocks[node].ahead), default="")
    if not worst:
        return Finding("clocks", "warn", "no node told its time", "see the lines of the nodes")
    ahead, uncertainty = clocks[worst].ahead, clocks[worst].uncertainty
    detail = f"{names[worst]} is {abs(ahead):.3f} s {'ahead' if ahead > 0 else 'behind'}, within {uncertainty:.3f} s"
    if abs(ahead) - uncertainty > SKEW:
        return Finding("clocks", "warn", detail, "run chrony or another NTP client on every node")
    return Finding("clocks", "ok", f"of {len(clocks)} nodes the one furthest off: {detail}")


def home_is_shared(witnesses: Witnesses, home: Path, names: Mapping[str, str]) -> Finding:
    """Write a file where runs will be and have every node read it and write beside it; both are taken away again."""
    folder, token = existing_parent(home), f".ftcluster-doctor-{uuid.uuid4().hex}"
    mark = folder / token
    try:
        mark.write_text(token)
        answers = witnesses.ask("share", str(folder), token)
    except OSError as error:
        return Finding("shared home", "fail", f"{folder}: {error.strerror}", "make it writable")
    finally:
        mark.unlink(missing_ok=True)
    return shared_finding(folder, answers, names)


def shared_finding(folder: Path, answers: Mapping[str, Answer], names: Mapping[str, str]) -> Finding:
    """What the nodes said about the home folder."""
    lacking = [f"{names[node]}: {problem}" for node, a in answers.items() if (problem := a.problem or a.value)]
    if lacking:
        remedy = "set home=FOLDER to one that every node mounts at the same path, writable (NFS, Lustre, EFS)"
        return Finding("shared home", "fail", "; ".join(lacking), remedy)
    return Finding("shared home", "ok", f"{folder} is read and written by all {len(answers)} nodes")


def all_reduce_between(witnesses: Witnesses, nodes: Sequence[Node]) -> Iterator[Finding]:
    """Between two nodes, those with idle GPUs first; nothing where only one answers."""
    answering = sorted((node for node in nodes if node.inventory), key=lambda node: not _idle(node))
    if len(answering) < 2:
        return
    first, second = answering[:2]
    result = witnesses.all_reduce((first.id, _idle(first)), (second.id, _idle(second)), ALL_REDUCE_SECONDS)
    yield all_reduce_finding(result, f"{first.name} and {second.name}")


def _idle(node: Node) -> str:
    """The UUID of a card of the node that nobody uses; empty where there is none."""
    idle = idle_gpus(node.inventory.gpus) if node.inventory else []
    return idle[0] if idle else ""
