"""Which trials go on: the rules of a pruner put together, over what was reported and nothing else.

    all repeats of a point -> their mean -> a rule of its own: no number, threshold, patience
                                         -> the rule among points: none, halving, hyperband, median, pbt
                           -> what each of its trials does

Where each point is trained with several seeds, points are judged, not trials: a point has a value at a rung when all
its trials have reported there, and they go on or end together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from statistics import fmean

from ftcluster.config.schema import PrunerConfig, SweepConfig
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.brackets import decide_in_brackets
from ftcluster.sweep.halving import Decision, Reports, decide
from ftcluster.sweep.median import decide_by_median
from ftcluster.sweep.population import decide_in_population


@dataclass(frozen=True)
class Verdict:
    """What is certain by now: (trial, rung it may train to), and the trials that end, with the reason in words."""

    promote: frozenset[tuple[int, int]]
    prune: Mapping[int, str]
    finished: Mapping[int, str]
    forks: Mapping[int, int] = field(default_factory=dict)  # trial -> the one whose state it goes on from

    def end_of(self, trial: RunRow) -> tuple[RunState, str] | None:
        """How a trial ends, and why, if it does."""
        for state, ends in ((RunState.FINISHED, self.finished), (RunState.PRUNED, self.prune)):
            if (reason := ends.get(trial.number)) is not None:
                return state, f"{reason} after step {trial.step}" if reason else ""
        return None


@dataclass(frozen=True)
class _Stop:
    """A point that ends by its own reports."""

    rung: int
    reason: str
    good: bool = False  # it is done, and not worse than others


def judge(spec: SweepConfig, count: int, rungs: tuple[int, ...], values: Reports, failed: Set[int]) -> Verdict:
    """All that is certain about trials ``0 .. count - 1``. ``values[t][k]`` is what trial t reported at rung k."""
    pruner, repeats = spec.pruner, spec.repeats
    gone = {trial // repeats for trial in failed}
    reports = means(values, repeats)
    stops = {
        point: stop
        for point, found in reports.items()
        if (stop := _own_end(pruner, spec.direction, found, len(rungs) - 1)) is not None
    }
    told = {**reports, **{point: _without(reports[point], stop) for point, stop in stops.items()}} if stops else reports
    decision, forks = _among(pruner, spec.direction, -(-count // repeats), rungs, told, gone | set(stops))
    prune = dict.fromkeys(decision.prune, _BELOW.get(pruner.name, ""))
    prune |= {point: stop.reason for point, stop in stops.items() if not stop.good}
    finished = dict.fromkeys(decision.finished, "")
    finished |= {point: stop.reason for point, stop in stops.items() if stop.good}
    together = dict.fromkeys(gone, "another trial of this point ended") if repeats > 1 else {}

    def trials(points: Mapping[int, str]) -> dict[int, str]:
        ends = ((point * repeats + seed, reason) for point, reason in points.items() for seed in range(repeats))
        return {trial: reason for trial, reason in ends if trial not in failed}

    further = ((point * repeats + seed, rung) for point, rung in decision.promote for seed in range(repeats))
    return Verdict(
        decision.promote if repeats == 1 else frozenset(further),
        trials({point: reason for point, reason in prune.items() if point not in gone} | together),
        trials({point: reason for point, reason in finished.items() if point not in gone}),
        forks,
    )


_BELOW = {
    "halving": "below the cut",
    "hyperband": "below the cut of its bracket",
    "median": "worse than the median of the trials before it",
}


def means(values: Reports, repeats: int) -> Reports:
    """Point -> rung -> mean over its trials, where all of them have reported."""
    if repeats == 1:
        return values
    found: dict[int, dict[int, float]] = {}
    for point in {trial // repeats for trial in values}:
        each = [values.get(point * repeats + seed, {}) for seed in range(repeats)]
        shared = set.intersection(*(set(reported) for reported in each))
        if shared:
            found[point] = {rung: fmean(reported[rung] for reported in each) for rung in sorted(shared)}
    return found


def _own_end(pruner: PrunerConfig, direction: str, values: Mapping[int, float], last: int) -> _Stop | None:
    """Where a point ends whatever the others do; at its last rung it ends anyway."""
    if not pruner.threshold and not pruner.patience and not any(value != value for value in values.values()):
        return None  # of many trials most by far
    sign = -1.0 if direction == "maximize" else 1.0
    limit = sign * float(pruner.threshold) if pruner.threshold else math.inf
    best, since = math.inf, 0
    for rung in range(last):
        if rung not in values:
            return None
        value = sign * values[rung]
        if math.isnan(value):
            return _Stop(rung, "not a number")
        if value > limit:
            return _Stop(rung, f"beyond pruner.threshold={pruner.threshold}")
        since = 0 if value < best - pruner.improvement else since + 1
        best = min(best, value)
        if pruner.patience and since >= pruner.patience:
            return _Stop(rung, f"no better for {pruner.patience} judgements", good=True)
    return None


def _without(values: Mapping[int, float], stop: _Stop) -> Mapping[int, float]:
    """What the others are compared with: of a point that was stopped as bad, nothing better than that."""
    if stop.good:
        return values
    return {rung: value for rung, value in values.items() if rung < stop.rung} | {stop.rung: math.nan}


def _among(
    pruner: PrunerConfig, direction: str, points: int, rungs: tuple[int, ...], reports: Reports, failed: Set[int]
) -> tuple[Decision, Mapping[int, int]]:
    """The rule among points, and which of them go on from another's state."""
    match pruner.name:
        case "halving":
            return decide(points, rungs, pruner.eta, direction, reports, failed), {}
        case "hyperband":
            return decide_in_brackets(points, rungs, pruner.eta, direction, reports, failed), {}
        case "median":
            return decide_by_median(points, rungs, pruner.startup, direction, reports, failed), {}
        case "pbt":
            return decide_in_population(points, rungs, direction, reports, failed)
    last = len(rungs) - 1
    alive = {point: len(found) for point, found in reports.items() if point not in failed}
    further = frozenset((point, reached) for point, reached in alive.items() if reached <= last)
    return Decision(further, frozenset(), frozenset(p for p, reached in alive.items() if reached > last)), {}
