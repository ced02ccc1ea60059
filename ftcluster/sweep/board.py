"""What a sweep's driver shows of its trials: a line for each, from the ledger and from the hosts they are on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ftcluster.cluster.host import Host
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.pace import Pace
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.prediction import BEGINNING, Prediction, write
from ftcluster.sweep.standing import left_of
from ftcluster.sweep.view import Overview, TrialLine, View, in_words, note_of

_EVERY, _SHARE = 2.0, 0.02  # seconds between looks at the timeline, and the share of the time that they may take


@dataclass
class Board:
    """``steps_before``: trained by an earlier driver of this sweep, so not at this one's speed."""

    plan: SweepPlan
    view: View
    clock: Callable[[], float]
    steps_before: int
    started: float
    totals: Mapping[str, int]  # steps of a trial's whole training, by its name
    _still: dict[str, tuple[RunRow, TrialLine]] = field(default_factory=dict)  # lines of trials that do not run
    _ends: float = math.nan  # when it may be over, in seconds since 1970
    _reading: Pace = field(init=False)

    def __post_init__(self) -> None:
        self._reading = Pace(self.clock, every=_EVERY, share=_SHARE)

    def show(self, trials: Sequence[RunRow], running: Mapping[str, tuple[Host, int]]) -> None:
        """``running``: the host of a trial, by its name, and the step up to which it trains there."""
        lines = [self._line(trial, running.get(trial.name)) for trial in trials]
        ended = sum(trial.state.ended for trial in trials)
        elapsed = self.clock() - self.started
        steps = sum(line.step for line in lines)
        left = 0.0 if ended == self.plan.trials else self._left(trials, elapsed, steps)
        self.view.show(lines, Overview(self.plan.name, self.plan.spec.metric, ended, self.plan.trials, elapsed, left))

    def _left(self, trials: Sequence[RunRow], elapsed: float, steps: int) -> float:
        """Seconds, from the stretches that have ended; from the speed so far, as long as none has."""
        if trials and self._reading.due:
            with self._reading.doing():
                folder, now = Path(trials[0].folder).parent, time.time()
                left = left_of(self.plan.spec, self.plan.rungs, self.plan.trials, trials, folder, now)
                self._ends = now + left
                if not self.steps_before and not math.isnan(left):
                    whole = elapsed + left
                    write(folder, Prediction(BEGINNING, whole, whole, whole))
        if not math.isnan(self._ends):
            return max(0.0, self._ends - time.time())
        rate = (steps - self.steps_before) / elapsed if elapsed > 0 else 0.0
        return max(self.plan.steps_at_most - steps, 0) / rate if rate else math.nan

    def _line(self, trial: RunRow, running: tuple[Host, int] | None) -> TrialLine:
        if running:
            return self._drawn(trial, running)
        row, line = self._still.get(trial.name, (None, None))
        if line is None or row is not trial:
            line = self._drawn(trial, None)
            self._still[trial.name] = trial, line
        return line

    def _drawn(self, trial: RunRow, running: tuple[Host, int] | None) -> TrialLine:
        pulse = running[0].peek() if running else None
        seen = pulse.progress.get(trial.folder) if pulse else None
        step = max(seen.step, trial.step) if seen else trial.step
        until = running[1] if running else trial.step
        speed = seen.seconds / seen.step if seen and seen.step else math.nan
        return TrialLine(
            name=trial.name,
            state=trial.state,
            step=step,
            until=until,
            total=self.totals.get(trial.name, self.plan.rungs[-1]),
            loss=seen.loss if seen else math.nan,
            metric=trial.metrics.get(self.plan.spec.metric, math.nan),
            tokens_per_s=seen.tokens_per_s if seen else 0.0,
            eta_s=(until - step) * speed,
            overrides=in_words(trial.overrides),
            note=note_of(trial),
        )
