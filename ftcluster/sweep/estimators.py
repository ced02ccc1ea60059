"""Samplers that learn: what is known of a sweep's trials -> points worth a try, best first.

Each is built anew from the history for every ask and seeded from (seed, number), so that it has no memory a resumed
sweep could lack.

    tpe     Optuna's tree-structured Parzen estimator, all keys together (Watanabe 2023); with conditions, per group
    gp      Optuna's Gaussian process, trials that still run taken in as what it expects of them
    nsga2   Optuna's NSGA-II (Deb 2002); parents are the best of everything known, not of one generation
    cmaes   CMA-ES (Hansen 2016), generations of known trials replayed in the order of their numbers

A value at an early rung says less than one at a later rung. So where trials were judged at different rungs, gp and
cmaes are given ranks: those that came further are better, and among equals the better value.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftcluster.config.grammar import Interval
from ftcluster.contracts.trial import RunState
from ftcluster.sweep.observation import Observation
from ftcluster.sweep.space import Point, Space, levels
from ftcluster.sweep.unit import fraction, value_at

ESTIMATORS = ("tpe", "gp", "cmaes", "nsga2")
_SPREAD = 0.2  # of the first generation of cmaes, in shares of a dimension
_POPULATION = 16  # parents of nsga2


@dataclass(frozen=True)
class Question:
    """Which point next: of which space, towards what, and as which trial."""

    space: Space
    seed: int
    directions: tuple[str, ...]
    number: int

    @property
    def state(self) -> int:
        return int(np.random.SeedSequence([self.seed, self.number]).generate_state(1)[0])


def asks(sampler: str, question: Question, history: Sequence[Observation]) -> Iterator[Point]:
    """Points for a trial, best first; each next one keeps away from those before. ``history`` is sorted by number."""
    if sampler == "cmaes":
        return _evolved(question, history)
    return _optuna_asks(sampler, question, history)


def _scores(history: Sequence[Observation], direction: str) -> list[float]:
    """The smaller the better: values where all are of one rung, else ranks."""
    sign = -1.0 if direction == "maximize" else 1.0
    keys = [(-o.rung, sign * o.value) if o.useful and o.value is not None else (1, math.inf) for o in history]
    if len({rung for rung, _ in keys}) == 1 and all(o.useful for o in history):
        return [value for _, value in keys]
    place = {key: float(rank) for rank, key in enumerate(sorted(set(keys)))}
    return [place[key] for key in keys]


# Optuna ----------------------------------------------------------------------------------------------------------


def _optuna_asks(sampler: str, question: Question, history: Sequence[Observation]) -> Iterator[Point]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = question.space
    study = optuna.create_study(sampler=_sampler(sampler, question), directions=_directions(sampler, question))
    distributions = {key: _distribution(space, key) for key in space.order}
    study.add_trials(_known(sampler, question, history, distributions))
    while True:
        trial = study.ask()
        point: Point = {}
        for key in space.order:
            if space.in_use(key, point):
                point[key] = _decoded(space, key, _suggested(trial, key, distributions[key]))
        yield {key: point[key] for key in space if key in point}


def _sampler(name: str, question: Question) -> Any:
    from optuna import samplers

    seed, conditional = question.state, bool(question.space.when)
    match name:
        case "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)
    with warnings.catch_warnings(action="ignore"):  # Optuna calls ``group`` experimental
        return samplers.TPESampler(
            seed=seed, n_startup_trials=0, multivariate=True, group=conditional, constant_liar=True
        )


def _directions(sampler: str, question: Question) -> list[str]:
    return ["minimize"] if sampler == "gp" and len(question.directions) == 1 else list(question.directions)


def _known(
    sampler: str, question: Question, history: Sequence[Observation], distributions: Mapping[str, Any]
) -> list[Any]:
    if sampler == "gp" and len(question.directions) == 1:
        told = [o for o in history if o.value is not None or o.failed]
        scores = dict(zip((o.number for o in told), _scores(told, question.directions[0]), strict=True))
        return [_trial(o, question.space, distributions, score=scores.get(o.number)) for o in history]
    return [_trial(o, question.space, distributions) for o in history]


def _trial(
    observation: Observation, space: Space, distributions: Mapping[str, Any], *, score: float | None = None
) -> Any:
    from optuna.trial import TrialState, create_trial

    value, several = observation.value, bool(observation.others)
    values: list[float] | None = None
    stops: dict[int, float] = {}
    if score is not None:
        kind, values = TrialState.COMPLETE, [score]
    elif observation.useful and value is not None and (observation.state is RunState.FINISHED or several):
        kind, values = TrialState.COMPLETE, [value, *observation.others]
    elif value is None and not observation.failed:
        kind = TrialState.RUNNING
    elif several:
        kind = TrialState.FAIL  # Optuna takes no pruned ones where there are several objectives
    else:  # stopped on the way, or waiting there: known at a rung; without any value Optuna ranks it last
        kind = TrialState.PRUNED
        stops = {observation.rung: value} if observation.useful and value is not None else {}
    mine = [key for key in distributions if key in observation.point]
    return create_trial(
        state=kind,
        values=values,
        params={key: _encoded(space, key, observation.point[key]) for key in mine},
        distributions={key: distributions[key] for key in mine},
        intermediate_values=stops,
        system_attrs={"NSGAIISampler:generation": 0},  # all may be parents
    )


def _distribution(space: Space, key: str) -> Any:
    import optuna.distributions as kinds

    dimension = space[key]
    if isinstance(dimension, Interval):
        if dimension.integer:
            return kinds.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
        return kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    values = levels(dimension)
    if isinstance(values, range):
        return kinds.IntDistribution(values[0], values[-1], step=values.step)
    # By index, since a choice may be a list, which Optuna does not take.
    return kinds.CategoricalDistribution(range(len(values or ())))


def _suggested(trial: Any, key: str, distribution: Any) -> Any:
    import optuna.distributions as kinds

    match distribution:
        case kinds.CategoricalDistribution():
            return trial.suggest_categorical(key, distribution.choices)
        case kinds.IntDistribution():
            step = distribution.step
            return trial.suggest_int(key, distribution.low, distribution.high, step=step, log=distribution.log)
    return trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)


def _decoded(space: Space, key: str, value: Any) -> Any:
    values = levels(space[key])
    return values[value] if isinstance(values, tuple) else value


def _encoded(space: Space, key: str, value: Any) -> Any:
    values = levels(space[key])
    return values.index(value) if isinstance(values, tuple) else value


# CMA-ES ----------------------------------------------------------------------------------------------------------


def _evolved(question: Question, history: Sequence[Observation]) -> Iterator[Point]:
    from cmaes import CMA

    space, keys = question.space, question.space.order
    middle, bounds = np.full(len(keys), 0.5), np.array([[0.0, 1.0]] * len(keys))

    def begin(seed: int) -> Any:
        return CMA(mean=middle.copy(), sigma=_SPREAD, bounds=bounds, seed=seed)

    told = [o for o in history if o.value is not None or o.failed]
    scored = list(zip(told, _scores(told, question.directions[0]), strict=True))
    search = begin(question.seed)
    while len(scored) >= search.population_size:
        now, scored = scored[: search.population_size], scored[search.population_size :]
        search.tell([(_place(space, keys, each.point), score) for each, score in now])
        if search.should_stop():
            search = begin(question.seed)
    search.reseed_rng(question.state)
    while True:
        drawn = dict(zip(keys, search.ask(), strict=True))
        yield space.reduced({key: value_at(space[key], min(float(drawn[key]), 1 - 1e-12)) for key in space})


def _place(space: Space, keys: Sequence[str], point: Mapping[str, Any]) -> Any:
    return np.array([fraction(space[key], point[key]) if key in point else 0.5 for key in keys])
