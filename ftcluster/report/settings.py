"""Trials that differ in their seed alone, taken together: their mean, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit  # type: ignore[import-untyped]  # no stubs

from ftcluster.comparison.findings import Comparison, Contender, value_text
from ftcluster.contracts.trial import SEED, RunState
from ftcluster.report.findings import Setting

_UPPER = 0.975


def settings(comparison: Comparison) -> tuple[Setting, ...]:
    """All settings of a sweep, the best first: those that finished, then those stopped early, then those unmeasured."""
    together: dict[str, list[Contender]] = {}
    for contender in sorted(comparison.contenders, key=lambda contender: contender.number):
        point = {name: value for name, value in contender.parameters.items() if name != SEED}
        together.setdefault(repr(point), []).append(contender)
    found = [_setting(trials) for trials in together.values()]
    sign = -1.0 if comparison.direction == "maximize" else 1.0

    def place(setting: Setting) -> tuple[int, float, int]:
        if setting.mean is None:
            return 2, 0.0, setting.trials[0].number
        early = setting.judged[0].state is not RunState.FINISHED
        return int(early), sign * setting.mean, setting.trials[0].number

    return tuple(sorted(found, key=place))


def _setting(trials: Sequence[Contender]) -> Setting:
    parameters = {key: value for key, value in trials[0].parameters.items() if key != SEED}
    measured = [trial for trial in trials if trial.score is not None and math.isfinite(trial.score)]
    furthest = max((_stage(trial) for trial in measured), default=None)
    judged = tuple(trial for trial in measured if _stage(trial) == furthest)
    values = [trial.score for trial in judged if trial.score is not None]
    if not values:
        return Setting(parameters, tuple(trials), (), None)
    mean, reach = fmean(values), interval(values)
    low, high = (None, None) if reach is None else (mean - reach, mean + reach)
    return Setting(parameters, tuple(trials), judged, mean, low, high)


def _stage(trial: Contender) -> tuple[bool, int]:
    return trial.state is RunState.FINISHED, trial.step


def interval(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean (Student's t); None for a single value."""
    count = len(values)
    return float(stdtrit(count - 1, _UPPER)) * stdev(values) / math.sqrt(count) if count > 1 else None


def difference(one: Setting, other: Setting) -> tuple[float, float, float] | None:
    """Mean of ``one`` less that of ``other`` and its 95 % interval; None where a side has a single value.

    Seeds that both were trained with make pairs, since what a seed does to both says nothing about them.
    """
    mine, theirs = _by_seed(one), _by_seed(other)
    shared = [seed for seed in mine if seed in theirs]
    if len(shared) > 1 and len(shared) == len(mine) == len(theirs):
        gaps = [mine[seed] - theirs[seed] for seed in shared]
        reach = interval(gaps)
        assert reach is not None
        return fmean(gaps), fmean(gaps) - reach, fmean(gaps) + reach
    if min(len(mine), len(theirs)) < 2:
        return None
    parts = [stdev(side.values()) ** 2 / len(side) for side in (mine, theirs)]  # Welch 1947
    freedom = sum(parts) ** 2 / max(
        sum(part**2 / (len(side) - 1) for part, side in zip(parts, (mine, theirs), strict=True)), 1e-300
    )
    middle = fmean(mine.values()) - fmean(theirs.values())
    reach = float(stdtrit(max(freedom, 1.0), _UPPER)) * math.sqrt(sum(parts))
    return middle, middle - reach, middle + reach


def _by_seed(setting: Setting) -> dict[str, float]:
    found = {}
    for at, trial in enumerate(setting.judged):
        seed = trial.config.get(SEED)
        label = value_text(seed) if seed is not None else f"trial {at}"
        found[label if label not in found else f"{label} of {trial.name}"] = trial.score or 0.0
    return found
