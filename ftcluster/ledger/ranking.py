"""Which trial of a sweep is best: the one rule that sweep, registry and chat share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow


def best_trial(trials: Sequence[RunRow], metric: str, direction: str) -> RunRow | None:
    """The finished trial with the best finite value; of equals the one with the lower number."""
    sign = -1.0 if direction == "maximize" else 1.0

    def value(trial: RunRow) -> float:
        return sign * trial.metrics.get(metric, math.nan)

    finished = [t for t in trials if t.state is RunState.FINISHED and math.isfinite(value(t))]
    return min(finished, key=lambda trial: (value(trial), trial.number), default=None)
