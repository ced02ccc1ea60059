"""The read side without MLflow: a run's metrics straight from its spool, for tables, curves and reports."""

from __future__ import annotations

from pathlib import Path

from ftcluster.contracts.metric import Metric
from ftcluster.tracking.records import SPOOL, points, read_lines

_LATELY = 1 << 16  # bytes


def read_metrics(folder: Path) -> dict[str, list[Metric]]:
    """Every metric of a run by name, in the order recorded; empty for a run that recorded none.

    May be called while the run goes on: a line that is being written is left out.
    """
    found: dict[str, list[Metric]] = {}
    for line in read_lines(folder / SPOOL):
        for point in points(line.record):
            found.setdefault(point.name, []).append(point)
    return found


def newest(folder: Path) -> dict[str, Metric]:
    """The newest points of a run, of metrics that it recorded lately; quick however long the run is."""
    spool = folder / SPOOL
    size = spool.stat().st_size if spool.exists() else 0
    lately = read_lines(spool, max(0, size - _LATELY))
    return {point.name: point for line in lately for point in points(line.record)}
