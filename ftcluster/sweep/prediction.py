"""What was foretold of a sweep, kept beside it so that it can be held against what came of it.

    <home>/forecasts/<hash of the sweep>.json   of one that was planned; launched, it takes this along
    <home>/<sweep>/forecast.json                what is compared in the end

Nothing decides by it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ftcluster.config.schema import SweepConfig
from ftcluster.config.values import to_dict
from ftcluster.contracts.folder import write_atomically

FILE = "forecast.json"
PROBE, BEGINNING = "a probe", "its beginning"


@dataclass(frozen=True)
class Prediction:
    """``basis``: what it was made from. Seconds are those from the sweep's start to its end."""

    basis: str
    seconds: float
    low: float
    high: float
    host_hours: float | None = None  # of each host from its first trial to its last
    disk: int | None = None  # bytes of the sweep's folder in the end, without its report


def keep(home: Path, spec: SweepConfig, made: Prediction) -> None:
    """For when the same sweep is launched."""
    _write(home / "forecasts" / _name(spec), made)


def adopt(home: Path, spec: SweepConfig, folder: Path) -> None:
    """A sweep that is launched takes along what was foretold of it last."""
    planned = home / "forecasts" / _name(spec)
    if planned.is_file() and not (folder / FILE).exists():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(planned, folder / FILE)


def write(folder: Path, made: Prediction) -> None:
    """Of a sweep; what was said first stays."""
    if not (folder / FILE).exists():
        _write(folder / FILE, made)


def read(folder: Path) -> Prediction | None:
    """None where nothing was foretold."""
    with suppress(OSError, ValueError, TypeError):
        return Prediction(**json.loads((folder / FILE).read_text("utf-8")))
    return None


def _write(path: Path, made: Prediction) -> None:
    with suppress(OSError):  # it is for people, and nothing depends on it
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(made)) + "\n")


def _name(spec: SweepConfig) -> str:
    text = json.dumps(to_dict(spec), sort_keys=True, ensure_ascii=False)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
