"""Hyperband (Li et al. 2018) over paused trials: several halvings side by side, each first judging at another rung.

Halving trusts its first judgement; where that comes too early for the trials that would win in the end, a bracket that
judges later does not lose them. Bracket b judges from rung b on; the earlier it judges, the more trials it has, so that
all brackets train about as many steps. Which bracket a trial is in depends on its number only, and what happens in a
bracket is ``halving``'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from functools import lru_cache

from ftcluster.sweep.halving import Decision, Reports, decide


@lru_cache(maxsize=8)
def brackets(count: int, rungs: int, eta: int) -> tuple[int, ...]:
    """The bracket of each trial ``0 .. count - 1``: in proportion to the sizes that Hyperband gives its brackets."""
    sizes = [math.ceil(rungs / (rungs - first) * eta ** (rungs - 1 - first)) for first in range(rungs)]
    given = [0] * rungs
    found: list[int] = []
    for number in range(count):
        due = [size * (number + 1) / sum(sizes) - has for size, has in zip(sizes, given, strict=True)]
        first = due.index(max(due))
        given[first] += 1
        found.append(first)
    return tuple(found)


def decide_in_brackets(
    n_trials: int, rungs: tuple[int, ...], eta: int, direction: str, reports: Reports, failed: Set[int]
) -> Decision:
    """As ``halving.decide``, bracket by bracket."""
    placed = brackets(n_trials, len(rungs), eta)
    promote: set[tuple[int, int]] = set()
    prune: set[int] = set()
    finished: set[int] = set()
    for first in range(len(rungs)):
        members = [trial for trial in range(n_trials) if placed[trial] == first]
        numbers = {trial: place for place, trial in enumerate(members)}
        inside = decide(
            len(members),
            rungs[first:],
            eta,
            direction,
            {numbers[trial]: _from(reports[trial], first) for trial in members if trial in reports},
            {numbers[trial] for trial in failed if trial in numbers},
        )
        promote |= {(members[place], rung + first) for place, rung in inside.promote}
        promote |= _unjudged(members, first, reports, failed)
        prune |= {members[place] for place in inside.prune}
        finished |= {members[place] for place in inside.finished}
    return Decision(frozenset(promote), frozenset(prune), frozenset(finished))


def _from(values: Mapping[int, float], first: int) -> dict[int, float]:
    return {rung - first: value for rung, value in values.items() if rung >= first}


def _unjudged(members: list[int], first: int, reports: Reports, failed: Set[int]) -> set[tuple[int, int]]:
    """Trials below the first rung that their bracket judges at go on."""
    reached = {trial: len(reports[trial]) for trial in members if trial in reports and trial not in failed}
    return {(trial, rungs) for trial, rungs in reached.items() if rungs <= first}
