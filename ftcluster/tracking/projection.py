"""Spool records in MLflow's terms: slices of a spool, its limits, its names, its states.

Pure: reads a spool, talks to nobody. MLflow takes 1,000 metrics, 100 params and 100 tags per request of at most
1 MB, silently cuts longer values, and refuses names with other than a few characters; so values are cut here,
visibly, and names are made acceptable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ftcluster.contracts.metric import Metric
from ftcluster.contracts.trial import RunState
from ftcluster.tracking.records import SPOOL, points, read_lines

# MLflow takes a thousand things at once, and of params and tags a hundred each.
METRICS_PER_REQUEST = 800
TEXTS_PER_REQUEST = 100
BYTES_PER_REQUEST = 260_000  # of each kind; a third of 1 MB less what the request's own field names take
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
LONGEST_NAME = 250
CUT = "… (truncated)"
MLFLOW_STATUS = {
    RunState.WAITING: "RUNNING",
    RunState.RUNNING: "RUNNING",
    RunState.PAUSED: "RUNNING",
    RunState.FINISHED: "FINISHED",
    RunState.PRUNED: "FINISHED",
    RunState.FAILED: "FAILED",
    RunState.KILLED: "KILLED",
    RunState.INTERRUPTED: "KILLED",
}
Item = TypeVar("Item")


@dataclass(frozen=True)
class StateChange:
    """The last state a slice of records leaves the run in."""

    state: RunState
    reason: str
    timestamp_ms: int


@dataclass
class Slice:
    """Some successive records, sorted by kind; delivered as a whole. ``end`` is the offset behind them."""

    params: list[tuple[str, str]] = field(default_factory=list)  # a name may come twice: MLflow keeps the first
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    artifacts: list[tuple[Path, str]] = field(default_factory=list)
    change: StateChange | None = None
    end: int = 0

    def add(self, record: Mapping[str, Any], folder: Path) -> None:
        """Take one record in; an unknown or damaged one is left out."""
        self.metrics += [Metric(mlflow_name(p.name), p.value, p.step, p.timestamp_ms) for p in points(record)]
        try:
            match record.get("kind"):
                case "params":
                    self.params += [(mlflow_name(k), as_text(v, LONGEST_PARAM)) for k, v in record["values"].items()]
                case "tags":
                    self.tags |= {mlflow_name(k): as_text(v, LONGEST_TAG) for k, v in record["values"].items()}
                case "artifact":
                    self.artifacts.append((folder / record["path"], record["under"]))
                case "state":
                    reason = as_text(record["reason"], LONGEST_TAG)
                    self.change = StateChange(RunState(record["state"]), reason, record["t"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return


def read_slices(folder: Path, start: int) -> Iterator[Slice]:
    """What a run's spool holds from byte ``start`` on, in slices of about one request of metrics each."""
    current = Slice()
    for line in read_lines(folder / SPOOL, start):
        current.add(line.record, folder)
        current.end = line.end
        if len(current.metrics) >= METRICS_PER_REQUEST:
            yield current
            current = Slice()
    if current.end:
        yield current


def mlflow_name(name: str) -> str:
    """A name MLflow accepts: other characters become ``_``; no empty, ``.`` or ``..`` part between slashes."""
    parts = re.sub(r"[^/\w.\- :]", "_", name[:LONGEST_NAME]).split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "_"


def as_text(value: Any, longest: int) -> str:
    """A param or tag as MLflow keeps it: texts as they are, anything else as JSON, over-long ones cut visibly."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # Half a surrogate pair and NUL are legal in JSON, not in UTF-8 and PostgreSQL.
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "�")
    return text if len(text) <= longest else text[: longest - len(CUT)] + CUT


def requests_of(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """The items in lists of at most ``most`` each that stay below the size of a request."""
    batch: list[Item] = []
    size = 0
    for item in items:
        weight = _bytes_on_the_wire(item)
        if batch and (len(batch) == most or size + weight > BYTES_PER_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += weight
    if batch:
        yield batch


def _bytes_on_the_wire(item: object) -> int:
    texts = (item.name,) if isinstance(item, Metric) else item if isinstance(item, tuple) else ()
    # JSON escapes: up to 6 bytes per character. 160: the field names, numbers and indentation around them.
    return 160 + sum(len(json.dumps(text)) for text in texts)
