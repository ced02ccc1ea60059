"""What the ledger says of a sweep's trials and of what they reported, read once and kept up to date by every write.

Only a sweep's own driver writes these rows, so what it has read stays true; reading thousands of them again several
times a second would be most of its work.
"""

from __future__ import annotations

import math
from typing import Any

from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger


class Facts:
    """The trials of one sweep. Every method that changes them writes to the ledger first, and raises what it raises."""

    def __init__(self, ledger: Ledger, sweep: str, metric: str) -> None:
        self.ledger, self.sweep, self._metric = ledger, sweep, metric
        self._trials = {trial.name: trial for trial in ledger.runs(parent=sweep)}
        self.values: dict[int, dict[int, float]] = {}  # trial number -> rung -> metric
        for report in ledger.reports(sweep):
            self._remember(report.number, report.rung, report.metrics.get(metric, math.nan))

    @property
    def trials(self) -> list[RunRow]:
        """By number."""
        return list(self._trials.values())

    def __len__(self) -> int:
        return len(self._trials)

    def get(self, name: str) -> RunRow:
        """A trial."""
        return self._trials[name]

    def add(self, trial: RunRow) -> None:
        """One more, with the next number."""
        self._trials[trial.name] = self.ledger.add(trial)

    def set_state(self, name: str, state: RunState, *, reason: str = "", **changes: Any) -> None:
        """As the ledger's."""
        self._trials[name] = self.ledger.set_state(name, state, reason=reason, **changes)

    def record(self, report: TrialReport, rung: int) -> None:
        """What a trial said at a rung, and that it waits there."""
        trial = self._trials[report.name]
        self._trials[report.name] = self.ledger.pause(report, rung)
        self._remember(trial.number, rung, report.metrics.get(self._metric, math.nan))

    def _remember(self, number: int, rung: int, value: float) -> None:
        self.values.setdefault(number, {})[rung] = value
