"""What the ledger says of a sweep's trials and of what they reported, read once and kept up to date by every write.

Only a sweep's own driver writes these rows, so what it has read stays true; reading thousands of them again several
times a second would be most of its work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger

_MOVING = (RunState.WAITING, RunState.RUNNING, RunState.INTERRUPTED)


class Facts:
    """The trials of one sweep. Every method that changes them writes to the ledger first, and raises what it raises.

    What is handed over together is written together, or not at all.
    """

    def __init__(self, ledger: Ledger, sweep: str, metric: str) -> None:
        self.ledger, self.sweep, self._metric = ledger, sweep, metric
        self._trials: dict[str, RunRow] = {}
        self._names: dict[int, str] = {}
        self._open: dict[str, RunRow] = {}
        self._moving: dict[str, RunRow] = {}
        self._keep(ledger.runs(parent=sweep))
        self.values: dict[int, dict[int, float]] = {}  # trial number -> rung -> metric
        for report in ledger.reports(sweep):
            self._remember(report.number, report.rung, report.metrics.get(metric, math.nan))

    @property
    def trials(self) -> list[RunRow]:
        """By number."""
        return list(self._trials.values())

    @property
    def open(self) -> list[RunRow]:
        """Those that have not ended, by number."""
        return list(self._open.values())

    def startable(self, promoted: Iterable[int]) -> list[RunRow]:
        """Those that have not ended and do not wait at a rung, and of these ``promoted``, by their numbers."""
        further = (self._open.get(self._names[number]) for number in promoted if number in self._names)
        return [*self._moving.values(), *(trial for trial in further if trial and trial.name not in self._moving)]

    def __len__(self) -> int:
        return len(self._trials)

    def get(self, name: str) -> RunRow:
        """A trial."""
        return self._trials[name]

    def add(self, trials: Sequence[RunRow]) -> None:
        """More trials, with the next numbers."""
        self._keep(self.ledger.add_all(trials))

    def set_state(self, name: str, state: RunState, *, reason: str = "", **changes: Any) -> None:
        """As the ledger's."""
        self._keep([self.ledger.set_state(name, state, reason=reason, **changes)])

    def set_states(self, states: Iterable[tuple[str, RunState, str]]) -> None:
        """The state of each trial, by its name, and the reason."""
        self._keep(self.ledger.set_states(list(states), self._trials))

    def record(self, reports: Sequence[tuple[TrialReport, int]]) -> None:
        """What trials said at a rung, and that they wait there."""
        rows = self.ledger.pause_all(reports, self._trials)
        self._keep(rows)
        for row, (report, rung) in zip(rows, reports, strict=True):
            self._remember(row.number, rung, report.metrics.get(self._metric, math.nan))

    def _keep(self, rows: Iterable[RunRow]) -> None:
        for row in rows:
            self._trials[row.name] = row
            self._names[row.number] = row.name
            for kept, wanted in ((self._open, not row.state.ended), (self._moving, row.state in _MOVING)):
                if wanted:
                    kept[row.name] = row
                else:
                    kept.pop(row.name, None)

    def _remember(self, number: int, rung: int, value: float) -> None:
        self.values.setdefault(number, {})[rung] = value
