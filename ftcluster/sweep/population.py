"""Population-based training (Jaderberg et al. 2017) over paused trials: at each rung the worst go on from the best.

A quarter of the trials, the worst at a rung, take the weights and optimizer state of a trial of the best quarter, and
its settings a little changed; all trials train to the end. A rung is judged when every trial has reported there, so who
takes from whom is a function of the reports: the worst takes from the best, the one before it from the second, and so
on. What is changed by how much is a function of (seed, trial, rung).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from ftcluster.config.grammar import Interval
from ftcluster.sweep.halving import Decision, Reports
from ftcluster.sweep.space import Space, levels

_SHARE = 4  # one of so many takes from another
_FACTORS = (0.8, 1.25)


def decide_in_population(
    n_trials: int, rungs: tuple[int, ...], direction: str, reports: Reports, failed: Set[int]
) -> tuple[Decision, dict[int, int]]:
    """What is certain about trials ``0 .. n_trials - 1``, and who goes on from whose state before it trains further."""
    sign = -1.0 if direction == "maximize" else 1.0
    last = len(rungs) - 1
    promote: set[tuple[int, int]] = set()
    forks: dict[int, int] = {}
    for rung in range(last):
        there = {trial: sign * reports[trial][rung] for trial in range(n_trials) if rung in reports.get(trial, {})}
        if len(there) + len([trial for trial in failed if trial not in there]) < n_trials:
            break
        waiting = [trial for trial in there if rung + 1 not in reports[trial] and trial not in failed]
        promote.update((trial, rung + 1) for trial in waiting)
        ranked = sorted(there, key=lambda trial: (math.isnan(there[trial]), there[trial], trial))
        share = len(ranked) // _SHARE
        pairs = zip(ranked[::-1][:share], ranked[:share], strict=True)
        forks |= {worse: better for worse, better in pairs if worse in waiting}
    finished = frozenset(trial for trial in range(n_trials) if last in reports.get(trial, {}) and trial not in failed)
    return Decision(frozenset(promote), frozenset(), finished), forks


def changed(space: Space, point: Mapping[str, Any], seed: int, trial: int, rung: int) -> dict[str, Any]:
    """A point near another: numbers times 0.8 or 1.25 within their range, entries of a list a place further."""
    draw = np.random.default_rng(np.random.SeedSequence([seed, trial, rung]))
    found = dict(point)
    for key in space.order:
        dimension, up = space[key], bool(draw.integers(2))
        values = levels(dimension)
        if isinstance(dimension, Interval):
            value = min(max(point[key] * _FACTORS[up], dimension.low), dimension.high)
            found[key] = round(value) if dimension.integer else value
        elif values is not None:
            place = values.index(point[key]) + (1 if up else -1)
            found[key] = values[min(max(place, 0), len(values) - 1)]
    return found
