"""Who ran where, and when: a line for each stretch of a sweep, as it ends.

The file is for people and reports: nothing decides by it, and a sweep goes on where it cannot be written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ftcluster.cluster.host import Host

FILE = "timeline.jsonl"


@dataclass(frozen=True)
class Span:
    """A trial on a host, from one rung to the next. Times are seconds since 1970, on the driver's clock."""

    trial: str
    rung: int
    host: str
    nodes: tuple[str, ...]  # of each rank
    waited: float  # seconds from the moment when it could have run
    started: float
    ended: float
    end: str  # reported | stopped | lost | failed | refused


class Recorder:
    """Adds lines to the timeline of a sweep's folder; hosts are numbered in the order of their first trial."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[object, int] = {}

    def begin(self, host: object) -> None:
        """A trial is sent to a host."""
        self._numbers.setdefault(host, len(self._numbers))

    def end(self, trial: str, rung: int, host: Host, waited: float, started: float, how: str) -> None:
        """It came back, or will not."""
        span = Span(trial, rung, f"host {self._numbers[host]}", host.nodes, waited, started, time.time(), how)
        append(self._folder, span)


def append(folder: Path, span: Span) -> None:
    """Add a line to the timeline of a sweep's folder."""
    with suppress(OSError), (folder / FILE).open("a") as file:
        file.write(json.dumps(asdict(span)) + "\n")


def read(folder: Path) -> list[Span]:
    """What was recorded; a line that a killed driver left unfinished is not there."""
    return list(_spans(folder / FILE))


def _spans(file: Path) -> Iterator[Span]:
    for line in file.read_text().splitlines() if file.is_file() else ():
        with suppress(ValueError, TypeError):
            told = json.loads(line)
            yield Span(**{**told, "nodes": tuple(told["nodes"])})


def drawn(spans: Sequence[Span], width: int = 60) -> list[str]:
    """A line of text for each host: the numbers of its trials at the time when they ran."""
    if not spans:
        return []
    first, last = min(span.started for span in spans), max(span.ended for span in spans)
    scale = width / max(last - first, 1e-9)
    lines = []
    for host in dict.fromkeys(span.host for span in sorted(spans, key=lambda span: span.started)):
        mine = [span for span in spans if span.host == host]
        cells = [" "] * width
        for span in mine:
            begin, end = int((span.started - first) * scale), int((span.ended - first) * scale)
            mark = span.trial.rpartition("-")[2].lstrip("0") or "0"
            for place in range(begin, max(begin + 1, min(end, width))):
                cells[min(place, width - 1)] = mark[(place - begin) % len(mark)]
        lines.append(f"{host:>8} x{len(mine[0].nodes)} |{''.join(cells)}|")
    return lines
