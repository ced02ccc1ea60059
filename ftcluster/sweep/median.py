"""The median rule over paused trials: a trial worse than half of those before it ends there.

"Before" means lower numbers, not earlier reports: a trial is judged at a rung by the trials with lower numbers that
reach that rung, whenever they do. So what is pruned does not depend on who reports first, and equals what the rule
does to trials that run one after the other. A trial need not wait for all of them: it goes on, or is pruned, as soon as
the outstanding ones cannot change that. The first ``startup`` trials at a rung are never pruned there.

A trial that failed or reported no number is worse than all; one that ended at an earlier rung does not count.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Set

from ftcluster.sweep.halving import Decision, Reports


def decide_by_median(
    n_trials: int, rungs: tuple[int, ...], startup: int, direction: str, reports: Reports, failed: Set[int]
) -> Decision:
    """All certain promotions and prunings of trials ``0 .. n_trials - 1``; see ``halving.Decision``."""
    sign = -1.0 if direction == "maximize" else 1.0
    promote: set[tuple[int, int]] = set()
    out: set[int] = set()  # ended at a rung before
    pruned: set[int] = set()
    last = len(rungs) - 1
    for rung in range(last):
        before: list[float] = []
        outstanding = 0
        now: set[int] = set()
        for trial in range(n_trials):
            if trial in out:
                continue
            value = reports.get(trial, {}).get(rung)
            if value is None:
                outstanding += trial not in failed
                now |= {trial} & failed
                continue
            value = math.inf if math.isnan(value) else sign * value
            better = bisect_left(before, value)
            if len(before) >= startup and 2 * better > len(before) + outstanding:
                now.add(trial)
                pruned.add(trial)
            elif 2 * better + outstanding <= len(before) or len(before) + outstanding < startup:
                promote |= {(trial, rung + 1)} if rung + 1 not in reports[trial] else set()
            insort(before, value)
        out |= now
    finished = {trial for trial in range(n_trials) if last in reports.get(trial, {})}
    return Decision(
        frozenset((trial, rung) for trial, rung in promote if trial not in failed),
        frozenset(pruned - failed),
        frozenset(finished - failed - pruned),
    )
