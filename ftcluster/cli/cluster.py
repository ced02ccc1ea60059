"""``ftcluster cluster``: the nodes and GPUs that trials can run on, what is wrong with them and what runs there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftcluster.cli.arguments import Json
from ftcluster.cli.output import console, print_json, table
from ftcluster.units import format_bytes

if TYPE_CHECKING:
    from ftcluster.cluster.health import Health
    from ftcluster.cluster.inventory import Gpu, Node

_NODE = ("node", "address", "state", "CPUs free", "memory free", "GPUs usable", "GPUs free", "runs", "reason")
_GPU = ("node", "GPU", "model", "state", "memory", "busy", "degrees", "watts", "NVLinks", "processes")
_LISTEN = 3.0  # seconds; every sweep tells of itself once a second
_COLOURS = {"ok": "green", "warn": "yellow", "unusable": "red", "silent": "red"}

cluster = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    help="Show nodes and GPUs, what is wrong with them and what runs: ftcluster cluster status.",
)


@cluster.callback()
def _cluster() -> None:
    """Keeps ``status`` a word of its own: Typer would leave out the name of an only command."""


@cluster.command("status")
def status(
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="A Ray cluster; default RAY_ADDRESS, else this machine alone.")
    ] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for a node's answer.")] = 30.0,
    as_json: Json = False,
) -> None:
    """List nodes and GPUs with their state and what runs on them.

    [bold]Examples[/bold]

      ftcluster cluster status

      ftcluster cluster status --address 10.0.0.5:6379 --json

    A GPU that is [bold]unusable[/bold] gets no trial: it has failed, or somebody else computes on it. A node that does
    not answer is [bold]silent[/bold]. Nothing is started on the cluster but one small actor per node for the time it
    takes.
    """
    from ftcluster.config.environment import ray_address

    place = ray_address(address)
    place = "" if place == "local" else place  # Ray would start one
    nodes, gone, sweeps = _joined(place, timeout) if place else ([_this_machine()], 0, {})
    if as_json:
        told = [{"sweep": name, **claim} for name, claim in sweeps.items()]
        print_json({"address": place, "nodes": [_plain(node) for node in nodes], "gone": gone, "sweeps": told})
        return
    _show(nodes, gone, place)
    if sweeps:
        rows = [
            (name, *(claim[key] for key in ("kind", "holds", "wants", "priority"))) for name, claim in sweeps.items()
        ]
        table(("sweep", "of", "holds", "wants in all", "priority"), rows, title="\nsweeps")


def _joined(address: str, timeout: float) -> tuple[Sequence[Node], int, dict[str, dict[str, Any]]]:
    from ftcluster.cluster.joining import looking_around
    from ftcluster.cluster.notes import renewed

    sweeps = {}
    with looking_around(address, timeout) as witnesses:
        with suppress(TimeoutError):
            sweeps = renewed("sweeps", _LISTEN)
        return witnesses.nodes(), witnesses.gone, sweeps


def _this_machine() -> Node:
    from ftcluster.cluster.inventory import Node
    from ftcluster.cluster.machine import read_inventory
    from ftcluster.cluster.probe import chosen_probe

    found = read_inventory(chosen_probe())
    return Node("", "this machine", cpus=found.machine.cpus, gpus=len(found.gpus.gpus), inventory=found)


def _show(nodes: Sequence[Node], gone: int, address: str) -> None:
    title = f"cluster at {address}" if address else "this machine alone; an embedded Ray is started by a sweep"
    table(_NODE, [_node_cells(node) for node in nodes], title=title)
    cards = [(node, gpu, health) for node in nodes for gpu, health in _judged(node)]
    if cards:
        table(_GPU, [(node.name, *_gpu_cells(gpu, health)) for node, gpu, health in cards], title="\nGPUs")
    for node, gpu, health in cards:
        if health.reason:
            text = f"GPU {gpu.index} of {node.name}: {health.reason}\n  -> {health.remedy}"
            console().print(text, soft_wrap=True, markup=False)
    if gone:
        console().print(f"{gone} nodes were part of this cluster and have left it")


def _state(node: Node) -> str:
    return "ok" if node.inventory else "silent"


def _judged(node: Node) -> Iterator[tuple[Gpu, Health]]:
    from ftcluster.cluster.health import judge

    for gpu in node.inventory.gpus.gpus if node.inventory else ():
        yield gpu, judge(gpu)


def _node_cells(node: Node) -> tuple[object, ...]:
    from rich.text import Text

    found = node.inventory
    judged = [health.state for _, health in _judged(node)]
    runs = Counter(found.running) if found else {}
    return (
        node.name,
        node.address,
        Text(_state(node), _COLOURS[_state(node)]),
        _share(node.free_cpus, node.cpus),
        f"{format_bytes(found.machine.memory_available)} of {format_bytes(found.machine.memory_total)}"
        if found
        else None,
        f"{sum(each != 'unusable' for each in judged)} of {len(judged)}" if judged else None,
        _share(node.free_gpus, node.gpus),
        ", ".join(f"{count} {name}" for name, count in runs.items()) or None,
        node.problem or (found.gpus.problem if found else ""),
    )


def _share(free: float | None, total: float) -> str:
    return f"{total:g}" if free is None else f"{free:g} of {total:g}"


def _gpu_cells(gpu: Gpu, health: Health) -> tuple[object, ...]:
    from rich.text import Text

    total, used = gpu.memory_total, gpu.memory_used
    processes = [f"{process.name or process.pid}" for process in gpu.processes or ()]
    return (
        gpu.index,
        f"{gpu.name}, {len(gpu.slices)} MIG devices" if gpu.mig else gpu.name,
        Text(health.state, _COLOURS[health.state]),
        None if total is None or used is None else f"{format_bytes(used)} of {format_bytes(total)}",
        None if gpu.utilization is None else f"{100 * gpu.utilization:.0f} %",
        None if gpu.temperature is None else f"{gpu.temperature:.0f}",
        None if gpu.power is None else f"{gpu.power:.0f}{f' of {gpu.power_limit:.0f}' if gpu.power_limit else ''}",
        f"{gpu.links.active} of {gpu.links.total}" if gpu.links else None,
        ", ".join(processes) or None,
    )


def _plain(node: Node) -> dict[str, Any]:
    """For programs: all that was found, with the verdict beside each card."""
    from dataclasses import asdict

    found = asdict(node) | {"name": node.name, "state": _state(node)}
    for told, (_, health) in zip(
        (found["inventory"] or {"gpus": {"gpus": ()}})["gpus"]["gpus"], _judged(node), strict=True
    ):
        told |= {"state": health.state, "reason": health.reason, "remedy": health.remedy}
    return found
