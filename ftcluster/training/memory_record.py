"""A run's memory, in ``memory.json`` of its folder: what was foretold and measured, and the micro-batch that fits.

What earlier runs of a home measured calibrates what is foretold of later ones on the same kind of device.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ftcluster.contracts.folder import RunFolder, write_atomically

_NEWEST = 100  # runs that calibrate
_MOST = 2.0  # a rehearsal is not that wrong: something else was measured with it, such as long answers


@dataclass(frozen=True)
class Kind:
    """What runs have in common whose predictions err alike."""

    engine: str  # local | packed | deepspeed | packed-deepspeed
    device: str  # cpu | cuda
    precision: str  # fp64 | fp32 | bf16


@dataclass(frozen=True)
class MemoryRecord:
    """Bytes are of each device at the highest moment; 0 where they are not known."""

    engine: str = ""
    device: str = ""
    precision: str = ""
    predicted: int = 0
    measured: int = 0
    micro_batch: int = 0  # in use instead of the config's, which did not fit
    micro_tokens: int = 0
    halved: int = 0  # how often

    @property
    def kind(self) -> Kind:
        return Kind(self.engine, self.device, self.precision)


def read_memory(folder: Path) -> MemoryRecord:
    """Of a run; an empty one where nothing was written, or what was is damaged."""
    try:
        found = json.loads(RunFolder(folder).memory.read_text("utf-8"))
        empty = asdict(MemoryRecord()).items()
        return MemoryRecord(**{name: found[name] for name, none in empty if isinstance(found.get(name), type(none))})
    except (OSError, ValueError, AttributeError):
        return MemoryRecord()


def change_memory(folder: Path, **changes: str | int) -> MemoryRecord:
    """Write some of it anew; by the process that trains the run."""
    made = replace(read_memory(folder), **changes)  # type: ignore[arg-type]
    write_atomically(RunFolder(folder).memory, json.dumps(asdict(made)) + "\n")
    return made


@dataclass(frozen=True)
class Calibration:
    """By how much runs exceeded what was foretold of them: the median of measured over predicted, doubled at most."""

    runs: int = 0
    factor: float = 1.0


def calibration(home: Path, kind: Kind) -> Calibration:
    """What the newest runs of a home say of a kind."""
    ratios = [
        record.measured / record.predicted
        for record in _records(home)
        if record.kind == kind and record.predicted and record.measured
    ]
    return Calibration(len(ratios), min(_MOST, statistics.median(ratios))) if ratios else Calibration()


def calibrated(known: Calibration) -> str:
    """For people."""
    return f"calibrated by {known.runs} {'run' if known.runs == 1 else 'runs'}: x{known.factor:.2f}"


def _records(home: Path) -> Iterator[MemoryRecord]:
    files = [file for pattern in ("*", "*/*") for file in home.glob(f"{pattern}/{RunFolder(home).memory.name}")]
    newest = sorted(files, key=_written, reverse=True)[:_NEWEST]
    return (read_memory(file.parent) for file in newest)


def _written(file: Path) -> float:
    """When; long ago where it was removed meanwhile."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
