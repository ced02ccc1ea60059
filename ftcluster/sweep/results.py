"""What a finished sweep found, in lines for people: the best point, its spread over seeds, the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from ftcluster.config.schema import SweepConfig
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.objectives import front
from ftcluster.sweep.view import in_words

_MOST = 10


def best_in_words(best: RunRow, trials: Sequence[RunRow], spec: SweepConfig) -> str:
    """Such as ``eval/loss 0.512 +- 0.004 over 3 seeds, lr=0.001``; the spread is the standard deviation."""
    alike = [trial for trial in trials if trial.number // spec.repeats == best.number // spec.repeats]
    values = [trial.metrics.get(spec.metric, math.nan) for trial in alike]
    if len(values) == 1:
        return f"{spec.metric} {values[0]:.4f}, {in_words(best.overrides)}"
    settings = in_words({key: value for key, value in best.overrides.items() if key != "seed"})
    return f"{spec.metric} {fmean(values):.4f} +- {stdev(values):.4f} over {len(values)} seeds, {settings}"


def front_in_words(trials: Sequence[RunRow], spec: SweepConfig) -> list[str]:
    """Those that nothing beats in all objectives; no lines where a sweep has one objective."""
    if not spec.also:
        return []
    names = (spec.metric, *spec.also)
    found = front(trials, spec)
    lines = [f"not beaten in {' and '.join(names)} at once: {len(found)} of {len(trials)} trials"]
    for trial, values in found[:_MOST]:
        told = "  ".join(f"{name} {value:.6g}" for name, value in zip(names, values, strict=True))
        lines.append(f"  {trial.name}  {told}  {in_words(trial.overrides)}")
    return [*lines, f"  and {len(found) - _MOST} more"] if len(found) > _MOST else lines
