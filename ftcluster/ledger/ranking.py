"""Which trial of a sweep is best: the one rule that sweep, registry and chat share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow


def best_trial(trials: Sequence[RunRow], metric: str, direction: str, repeats: int = 1) -> RunRow | None:
    """The finished trial with the best finite value; of equals the one with the lower number.

    Where each point has several trials (``repeats``, numbered one behind the other) the mean of a point counts, and its
    first trial stands for it: the luckiest seed is no better setting. Where they were stopped before any had
    finished: the best among those that were judged latest.
    """
    sign = -1.0 if direction == "maximize" else 1.0

    def value(trial: RunRow) -> float:
        return sign * trial.metrics.get(metric, math.nan)

    known = [t for t in trials if t.state is not RunState.FAILED and math.isfinite(value(t))]
    finished = [t for t in known if t.state is RunState.FINISHED]
    early = any(t.state is RunState.KILLED for t in known) and all(t.state.ended for t in trials)
    if not finished and early:
        latest = max(trial.rung or 0 for trial in known)
        finished = [trial for trial in known if (trial.rung or 0) == latest]
    points: dict[int, list[RunRow]] = {}
    for trial in finished:
        points.setdefault(trial.number // repeats, []).append(trial)
    whole = [point for point in points.values() if len(point) == repeats] or list(points.values())
    best = min(whole, key=lambda point: (fmean(map(value, point)), point[0].number), default=None)
    return best[0] if best else None
