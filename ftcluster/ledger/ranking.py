"""Which trial of a sweep is best: the one rule that sweep, registry and chat share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow


def best_trial(trials: Sequence[RunRow], metric: str, direction: str) -> RunRow | None:
    """The finished trial with the best finite value; of equals the one with the lower number.

    Where all were ended before any had finished: the best among those that were judged latest.
    """
    sign = -1.0 if direction == "maximize" else 1.0

    def value(trial: RunRow) -> float:
        return sign * trial.metrics.get(metric, math.nan)

    known = [t for t in trials if t.state is not RunState.FAILED and math.isfinite(value(t))]
    finished = [t for t in known if t.state is RunState.FINISHED]
    if not finished and known and all(trial.state.ended for trial in trials):
        latest = max(trial.rung or 0 for trial in known)
        finished = [trial for trial in known if (trial.rung or 0) == latest]
    return min(finished, key=lambda trial: (value(trial), trial.number), default=None)
