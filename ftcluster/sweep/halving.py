"""Successive halving over paused trials: pure decisions that do not depend on who reports first.

At rung k, ``n_k`` trials meet and the best ``m = max(1, n_k // eta)`` go on to rung k + 1, which trains
eta times longer (Jamieson & Talwalkar 2016). All sizes are known beforehand, so nobody has to wait for a
whole rung: a trial goes on as soon as ``n_k - m`` others are known to be worse, and is pruned as soon as m
others are known to be better. Both hold whatever the outstanding trials will report, hence the survivors
are those of the synchronous algorithm, in whatever order reports arrive::

    n_k = 8, m = 4      reported, best first:  a b c d e f          outstanding: 2
    goes on:            a b     4 known worse, even if both outstanding trials beat them
    waits:              c d     depends on the outstanding two
    pruned:             e f     4 known better

A failed trial, and one that reports NaN, is worse than all numbers; ties go to the lower trial number.
Cost: one sort per rung of what was reported there. Owns no clock, no ledger and no placement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass

from ftcluster.errors import ConfigError

Reports = Mapping[int, Mapping[int, float]]  # trial number -> rung -> held-out metric


@dataclass(frozen=True)
class Decision:
    """What is certain by now; calling again with more reports only adds to it.

    ``promote`` holds (trial, next rung) until the trial has reported there, so a driver skips those it has
    already sent on their way. A failed trial appears nowhere.
    """

    promote: frozenset[tuple[int, int]]
    prune: frozenset[int]
    finished: frozenset[int]


def rungs(first: int, eta: int, total: int) -> tuple[int, ...]:
    """Steps at which trials are judged: ``first, first * eta, ...`` and the full budget ``total`` last.

    Raises:
        ConfigError: lengths below one step, or an eta that would never get anywhere.
    """
    least = (("pruner.first", first, 1), ("pruner.eta", eta, 2), ("optim.duration", total, 1))
    problems = [f"{name}: {value} is too small; use at least {low}" for name, value, low in least if value < low]
    if problems:
        raise ConfigError(problems)
    steps = []
    while first < total:
        steps.append(first)
        first *= eta
    return (*steps, total)


def decide(
    n_trials: int, rungs: tuple[int, ...], eta: int, direction: str, reports: Reports, failed: Set[int]
) -> Decision:
    """All certain promotions and prunings of a sweep of trials ``0 .. n_trials - 1``.

    Only the number of rungs matters here; one rung means no pruning. ``reports[t][k]`` is what trial t
    reported at rung k. Reports of other trial numbers are ignored.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    promote: set[tuple[int, int]] = set()
    prune: set[int] = set()
    members = [trial for trial in {*reports, *failed} if 0 <= trial < n_trials]
    size = n_trials
    last = len(rungs) - 1
    for rung in range(last):
        ranked = _ranked(members, rung, sign, reports, failed)
        survivors = max(1, size // eta)
        prune.update(ranked[survivors:])
        members = ranked[: max(0, len(ranked) - (size - survivors))]
        promote.update((trial, rung + 1) for trial in members if rung + 1 not in reports.get(trial, ()))
        size = survivors
    finished = frozenset(trial for trial in members if last in reports.get(trial, ()))
    return Decision(
        frozenset((trial, rung) for trial, rung in promote if trial not in failed),
        frozenset(prune - failed),
        finished - failed,
    )


def _ranked(members: list[int], rung: int, sign: float, reports: Reports, failed: Set[int]) -> list[int]:
    """Those members whose place at a rung can be told, best first."""
    order: list[tuple[float, int]] = []
    hopeless: list[int] = []
    for trial in members:
        value = reports.get(trial, {}).get(rung)
        if value is not None and not math.isnan(value):
            order.append((sign * value, trial))
        elif value is not None or trial in failed:
            hopeless.append(trial)
    return [trial for _, trial in sorted(order)] + sorted(hopeless)
