"""How a sweep stands, for whoever looks from outside: from its ledger, and from what its trials wrote down last."""

from __future__ import annotations

import math
from pathlib import Path

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.bundles import trials_at_most
from ftcluster.sweep.control import specification
from ftcluster.sweep.view import Overview, TrialLine, in_words, note_of
from ftcluster.tracking.history import newest

_LOSS, _SPEED = "train/loss", "train/tokens_per_s"


def standing(ledger: Ledger, sweep: RunRow, now: float) -> tuple[list[TrialLine], Overview]:
    """A line for each trial and one for all; ``now`` in seconds since 1970."""
    spec, rungs = specification(sweep), list(sweep.config.get("rungs", ()))
    trials = ledger.runs(parent=sweep.name)
    lines = [_line(trial, spec.metric, rungs) for trial in trials]
    ended = sum(trial.state.ended for trial in trials)
    finish = sweep.ended_at or now
    elapsed = finish - sweep.started_at if sweep.started_at else 0.0
    left = 0.0 if sweep.state.ended else math.nan
    return lines, Overview(sweep.name, spec.metric, ended, max(trials_at_most(spec), len(trials)), elapsed, left)


def _line(trial: RunRow, metric: str, rungs: list[int]) -> TrialLine:
    seen = newest(Path(trial.folder)) if trial.state is RunState.RUNNING else {}
    loss = seen.get(_LOSS)
    step = max(trial.step, loss.step if loss else 0)
    until = next((rung for rung in rungs if rung > step), step) if trial.state is RunState.RUNNING else trial.step
    return TrialLine(
        name=trial.name,
        state=trial.state,
        step=step,
        until=until,
        total=rungs[-1] if rungs else step,
        loss=loss.value if loss else math.nan,
        metric=trial.metrics.get(metric, math.nan),
        tokens_per_s=seen[_SPEED].value if _SPEED in seen else 0.0,
        eta_s=math.nan,
        overrides=in_words(trial.overrides),
        note=note_of(trial),
    )
