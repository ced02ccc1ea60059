"""The lines of a spool file: how a record is written down and read back.

Owns the format of ``<run folder>/spool.jsonl``; does not decide what is recorded or where it goes::

    {"n":1,"kind":"params","t":1760000000000,"values":{"optim.lr":0.001}}
    {"n":2,"kind":"metrics","t":1760000000125,"step":20,"values":{"eval/loss":1.25,"train/loss":"nan"}}

``n`` grows by one per record, ``t`` is the time of recording in milliseconds. Lines are plain JSON, which has
no NaN or infinity: those are written as the strings that ``float()`` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcluster.contracts.metric import Metric

SPOOL = "spool.jsonl"
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=str)


@dataclass(frozen=True)
class Line:
    """A complete line; ``record`` is empty where the line cannot be read, ``end`` is the offset behind it."""

    record: Mapping[str, Any]
    end: int


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as one line of pure ASCII, newline included."""
    return _ENCODER.encode(record).encode("ascii") + b"\n"


def as_json_number(value: float) -> float | str:
    """The value itself, or the name of a value JSON has no number for."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def read_lines(path: Path, start: int = 0) -> Iterator[Line]:
    """The complete lines from byte ``start`` on; a last line without its newline is still being written.

    A damaged line (a bad disk, a power cut) costs that line only. A missing file has no lines.
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        end = stream.seek(start)
        for raw in stream:
            if not raw.endswith(b"\n"):
                return
            end += len(raw)
            yield Line(_decode(raw), end)


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        record = json.loads(raw)
    except ValueError:
        return {}
    whole = isinstance(record, dict) and isinstance(record.get("n"), int) and isinstance(record.get("t"), int)
    return record if whole else {}


def points(record: Mapping[str, Any]) -> list[Metric]:
    """The metrics in a record, none unless it is an undamaged one of kind ``metrics``."""
    if record.get("kind") != "metrics":
        return []
    try:
        step, born = int(record["step"]), int(record["t"])
        return [Metric(name, float(value), step, born) for name, value in record["values"].items()]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return []
