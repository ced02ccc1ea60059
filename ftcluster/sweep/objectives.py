"""Several objectives: what trials cost beside what they achieve, and which of them nothing beats in all respects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import fmean

from ftcluster.config.compose import from_dict
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.ledger.schema import RunRow
from ftcluster.training.bench import size_of


def measured(spec: SweepConfig, report: TrialReport | None, trial: RunRow) -> TrialReport | str:
    """A report with those costs that the sweep weighs; a sentence where what it is judged by is not in it.

    Raises:
        ModelError: the model cannot be counted.
    """
    assert report is not None, "a stretch that neither failed nor was stopped has one"
    if spec.metric not in report.metrics:
        return f"it reported no {spec.metric}, only {', '.join(sorted(report.metrics))}"
    found = {name: cost(report, trial) for name, cost in _COSTS.items() if name in spec.also}
    return replace(report, metrics={**report.metrics, **found}) if found else report


def _parameters(report: TrialReport, trial: RunRow) -> float:  # noqa: ARG001 - one signature for all costs
    return float(_trained(_Counted(from_dict(trial.config))))


def _tokens_per_s(report: TrialReport, trial: RunRow) -> float:  # noqa: ARG001
    return report.tokens / report.seconds if report.seconds else math.nan


_COSTS: Mapping[str, Callable[[TrialReport, RunRow], float]] = {
    "trial/parameters": _parameters,
    "trial/tokens_per_s": _tokens_per_s,
}


class _Counted:
    """A config that is equal to those of the same model and adapter: counting takes a while."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._key = repr((config.model, config.adapter))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Counted) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=256)
def _trained(counted: _Counted) -> int:
    return size_of(counted.config).trained


def front(trials: Sequence[RunRow], spec: SweepConfig) -> list[tuple[RunRow, tuple[float, ...]]]:
    """Finished points that no other one equals or beats in every objective, with their values; best metric first.

    Of a point with several trials the first stands for all, and the means count.
    """
    objectives = {spec.metric: spec.direction, **spec.also}
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in objectives.values()]
    points: dict[int, list[RunRow]] = {}
    for trial in trials:
        points.setdefault(trial.number // spec.repeats, []).append(trial)
    known = []
    for alike in points.values():
        values = tuple(fmean(trial.metrics.get(metric, math.nan) for trial in alike) for metric in objectives)
        if all(trial.state is RunState.FINISHED for trial in alike) and all(map(math.isfinite, values)):
            known.append((alike[0], values, tuple(sign * value for sign, value in zip(signs, values, strict=True))))
    kept = [
        (trial, values, scores)
        for trial, values, scores in known
        if not any(other != scores and all(a <= b for a, b in zip(other, scores, strict=True)) for _, _, other in known)
    ]
    return [(trial, values) for trial, values, scores in sorted(kept, key=lambda each: (each[2], each[0].number))]
