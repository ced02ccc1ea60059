"""How a sweep stands, for whoever looks from outside: from its ledger, and from what its trials wrote down last."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ftcluster.config.schema import SweepConfig
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.bundles import trials_at_most
from ftcluster.sweep.control import specification
from ftcluster.sweep.remaining import remaining
from ftcluster.sweep.spending import spent
from ftcluster.sweep.timeline import read
from ftcluster.sweep.view import Overview, TrialLine, in_words, note_of
from ftcluster.tracking.history import newest

_LOSS, _SPEED = "train/loss", "train/tokens_per_s"


def standing(ledger: Ledger, sweep: RunRow, now: float) -> tuple[list[TrialLine], Overview]:
    """A line for each trial and one for all; ``now`` in seconds since 1970."""
    spec, rungs = specification(sweep), list(sweep.config.get("rungs", ()))
    trials = ledger.runs(parent=sweep.name)
    lines = [_line(trial, spec.metric, rungs) for trial in trials]
    ended = sum(trial.state.ended for trial in trials)
    most = max(trials_at_most(spec), len(trials))
    finish = sweep.ended_at or now
    elapsed = finish - sweep.started_at if sweep.started_at else 0.0
    left = 0.0
    if not sweep.state.ended:
        left = left_of(spec, rungs, most, trials, Path(sweep.folder), now) if rungs else math.nan
    return lines, Overview(sweep.name, spec.metric, ended, most, elapsed, left, budget_in_words(sweep, elapsed))


def left_of(
    spec: SweepConfig, rungs: Sequence[int], most: int, trials: Sequence[RunRow], folder: Path, now: float
) -> float:
    """Seconds that a sweep of at most so many trials will still take, from its timeline."""
    states = Counter(trial.state for trial in trials)
    running, failed = states[RunState.RUNNING], states[RunState.FAILED] + states[RunState.KILLED]
    return remaining(spec, rungs, most, read(folder), now, running=running, failed=failed)


def budget_in_words(sweep: RunRow, elapsed: float) -> str:
    """What was spent of each part of a sweep's budget but trials; nothing where it has no other."""
    budget, used = specification(sweep).budget, spent(sweep)
    parts = []
    if budget.hours:
        parts.append(f"{elapsed / 3600:.3g} of {budget.hours:g} hours")
    if budget.gpu_hours:
        parts.append(f"{used.gpu_hours:.3g} of {budget.gpu_hours:g} GPU-hours")
    if budget.money:
        parts.append(f"{used.money:,.2f} of {budget.money:,.2f} in money")
    return f"spent: {', '.join(parts)}" if parts else ""


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
