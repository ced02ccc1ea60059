"""GPUs read from a file instead of a driver: for tests, and for dry runs on a machine that has none.

    driver: "580.95"
    gpus:
      GPU-a: {}                                      # everything has a default: a healthy idle card
      GPU-b: {temperature: 91, slowdowns: [hardware thermal slowdown]}
      GPU-c: {xids: [79], recovery_action: 2}
      GPU-d: {processes: {"4711": 30000000000}}      # process id -> bytes
      GPU-e: {silent: [power, links]}                # what this card does not tell

The names are those of ``inventory.Gpu``. The file is read again for every reading, so a fault can be written into it
while something runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from ftcluster.cluster.inventory import Gpu, GpuProcess, GpuReading, GpuSlice, Links, RemappedRows
from ftcluster.config.suggest import did_you_mean
from ftcluster.config.values import build
from ftcluster.config.yamlfile import read
from ftcluster.errors import ConfigError


@dataclass(frozen=True)
class _Rows:
    corrected: int = 0
    uncorrected: int = 0
    pending: bool = False
    failed: bool = False


@dataclass(frozen=True)
class _Card:
    """An idle H100, unless a script says otherwise."""

    name: str = "NVIDIA H100 80GB HBM3"
    memory_total: int = 85_520_809_984
    memory_used: int = 0
    compute_capability: list[int] = field(default_factory=lambda: [9, 0])
    utilization: float = 0.0
    temperature: float = 35.0
    temperature_limit: float = 87.0
    power: float = 70.0
    power_limit: float = 700.0
    slowdowns: list[str] = field(default_factory=list)
    uncorrectable_errors: int = 0
    remapped_rows: _Rows = field(default_factory=_Rows)
    xids: list[int] = field(default_factory=list)
    recovery_action: int = 0
    links: list[int] = field(default_factory=lambda: [18, 18])  # those that are up, all of them
    mig: bool = False
    slices: dict[str, int] = field(default_factory=dict)  # UUID -> bytes
    processes: dict[str, int] = field(default_factory=dict)  # process id -> bytes
    problem: str = ""
    silent: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Script:
    driver: str = "580.95.05"
    problem: str = ""
    gpus: dict[str, _Card] = field(default_factory=dict)


class ScriptedProbe:
    """Reads one script."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open: a script's XIDs are there whether somebody listens or not."""

    def read(self) -> GpuReading:
        """What the script says now.

        Raises:
            ConfigError: it cannot be read, or says something that no card has; all problems are listed.
        """
        file = read(self._path)
        script = build(_Script, file.content, file.place)
        problems = [problem for uuid, card in script.gpus.items() for problem in _problems(uuid, card)]
        if problems:
            raise ConfigError(problems, where=str(self._path), remedy="see ftcluster/cluster/scripted.py for the form")
        gpus = tuple(_gpu(index, uuid, card) for index, (uuid, card) in enumerate(script.gpus.items()))
        return GpuReading(gpus, script.driver, script.problem)


_SILENT = tuple(item.name for item in fields(Gpu) if item.default is None)


def _problems(uuid: str, card: _Card) -> list[str]:
    found = [f"gpus.{uuid}.silent: {name} is no reading.{did_you_mean(name, _SILENT)}" for name in card.silent]
    found = [text for text, name in zip(found, card.silent, strict=True) if name not in _SILENT]
    found += [f"gpus.{uuid}.processes: {pid} is no process id." for pid in card.processes if not pid.isdecimal()]
    pairs: Sequence[tuple[str, Sequence[int]]] = (
        ("compute_capability", card.compute_capability),
        ("links", card.links),
    )
    return found + [f"gpus.{uuid}.{name}: expected two numbers." for name, value in pairs if len(value) != 2]


def _gpu(index: int, uuid: str, card: _Card) -> Gpu:
    if card.problem:
        return Gpu(index, uuid, card.name, problem=card.problem)
    rows = card.remapped_rows
    made = Gpu(
        index=index,
        uuid=uuid,
        name=card.name,
        memory_total=card.memory_total,
        memory_used=card.memory_used,
        compute_capability=(card.compute_capability[0], card.compute_capability[1]),
        utilization=card.utilization,
        temperature=card.temperature,
        temperature_limit=card.temperature_limit,
        power=card.power,
        power_limit=card.power_limit,
        slowdowns=tuple(card.slowdowns),
        uncorrectable_errors=card.uncorrectable_errors,
        remapped_rows=RemappedRows(rows.corrected, rows.uncorrected, rows.pending, rows.failed),
        xids=tuple(card.xids),
        recovery_action=card.recovery_action,
        links=Links(*card.links),
        mig=card.mig,
        slices=tuple(GpuSlice(name, memory, 0) for name, memory in card.slices.items()),
        processes=tuple(GpuProcess(int(pid), memory) for pid, memory in card.processes.items()),
    )
    unknown: dict[str, Any] = dict.fromkeys(card.silent)
    return replace(made, **unknown)
