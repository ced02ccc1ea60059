"""The read side without MLflow: a run's metrics straight from its spool, for tables, curves and reports."""

from __future__ import annotations

from pathlib import Path

from ftcluster.contracts.metric import Metric
from ftcluster.tracking.records import SPOOL, points, read_lines


def read_metrics(folder: Path) -> dict[str, list[Metric]]:
    """Every metric of a run by name, in the order recorded; empty for a run that recorded none.

    May be called while the run goes on: a line that is being written is left out.
    """
    found: dict[str, list[Metric]] = {}
    for line in read_lines(folder / SPOOL):
        for point in points(line.record):
            found.setdefault(point.name, []).append(point)
    return found
