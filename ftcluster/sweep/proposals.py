"""The next trial of a sweep, from what is known of those before it.

Trials that somebody named come first, then those that the sampler proposes. Which is which stands in a trial's
overrides: ``named`` is the name of one that was asked for. The trials of a point that is trained with several seeds
have numbers one behind the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ftcluster.config.identity import identity
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.trial import NAMED, SEED, RunState
from ftcluster.errors import FtclusterError
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.bundles import named_point, named_values, read_words
from ftcluster.sweep.judging import means
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.space import override_words
from ftcluster.sweep.study import ESTIMATORS, Observation, propose


class Proposal(NamedTuple):
    """A trial for the ledger, why it cannot be trained, if its values make no config, and its config."""

    trial: RunRow
    problem: str
    config: RunConfig


def next_trials(
    plan: SweepPlan, folder: Path, trials: Sequence[RunRow], values: Mapping[int, Mapping[int, float]], count: int
) -> list[Proposal]:
    """``next_trial``, this many times or as often as there is one."""
    found = list[Proposal]()
    known = list(trials)
    while len(found) < count and (new := next_trial(plan, folder, known, values)) is not None:
        found.append(new)
        known.append(new.trial)
    return found


def next_trial(
    plan: SweepPlan, folder: Path, trials: Sequence[RunRow], values: Mapping[int, Mapping[int, float]]
) -> Proposal | None:
    """The trial after those that there are; None: there is none left. ``values``: trial number -> rung -> metric."""
    repeats, number = plan.spec.repeats, len(trials)
    if number % repeats:  # once more the point of the trial before, with another seed
        before = trials[number - number % repeats]
        overrides = {key: value for key, value in before.overrides.items() if key != SEED}
        words = _words(plan, overrides)
    elif (chosen := _chosen(plan, trials, values)) is not None:
        overrides, words = chosen, _words(plan, chosen)
    else:
        return None
    config, problem = plan.base, ""
    try:
        config = plan.trial_config(number, words)
    except FtclusterError as error:
        problem = str(error)
    if repeats > 1:
        config = replace(config, seed=config.seed + number % repeats)
        overrides = {**overrides, SEED: config.seed}
    name, content = plan.trial_name(number), plan.content(config)
    trial = RunRow(
        name=name,
        kind="trial",
        folder=str(folder / name),
        config=content,
        overrides=overrides,
        identity=identity(config, content),
        parent=plan.name,
        number=number,
    )
    return Proposal(trial, problem, config)


def _words(plan: SweepPlan, overrides: Mapping[str, Any]) -> list[str]:
    """What makes the config of a trial."""
    if NAMED in overrides:
        return override_words(named_values(plan.spec, overrides[NAMED]))
    return plan.space.words(overrides)


def _chosen(
    plan: SweepPlan, trials: Sequence[RunRow], values: Mapping[int, Mapping[int, float]]
) -> dict[str, Any] | None:
    """What the next point is."""
    spec = plan.spec
    there = {trial.overrides[NAMED] for trial in trials if NAMED in trial.overrides} if spec.always else set()
    if (name := next((name for name in spec.always if name not in there), None)) is not None:
        return {NAMED: name, **read_words(spec.always[name])}
    return propose(
        plan.space,
        spec.sampler.name,
        seed=spec.sampler.seed,
        direction=(spec.direction, *spec.also.values()),
        number=len(trials) // spec.repeats - len(there),
        history=_history(plan, trials, values),
        earlier=plan.earlier,
    )


def _history(plan: SweepPlan, trials: Sequence[RunRow], values: Mapping[int, Mapping[int, float]]) -> list[Observation]:
    """What the sampler is told: nothing where it does not learn and nobody named a point that it could propose."""
    spec, repeats = plan.spec, plan.spec.repeats
    named = {name: named_point(spec, plan.space, name) for name in spec.always}
    if spec.sampler.name not in ESTIMATORS and not any(named.values()):
        return []
    judged = means(values, repeats)
    found = []
    for number in range(len(trials) // repeats):
        alike = trials[number * repeats : (number + 1) * repeats]
        first = alike[0].overrides
        point = named.get(first[NAMED]) if NAMED in first else {key: first[key] for key in plan.space if key in first}
        if point is not None:
            others = tuple(fmean(trial.metrics.get(metric, math.nan) for trial in alike) for metric in spec.also)
            latest = _latest(judged.get(number, {}))
            found.append(Observation(number, point, _state(alike), *latest, others))
    return found


def _state(alike: Sequence[RunRow]) -> RunState:
    """Of several trials of a point: the first that is unlike finished."""
    return next((trial.state for trial in alike if trial.state is not RunState.FINISHED), RunState.FINISHED)


def _latest(reports: Mapping[int, float]) -> tuple[float | None, int]:
    if not reports:
        return None, 0
    rung = max(reports)
    return reports[rung], rung
