"""Which point a sweep tries next: ``propose`` is a function of the space, the seed and what is known so far.

Nothing is remembered between calls. The Optuna study behind ``tpe`` is rebuilt from the history every time
and its sampler seeded from (seed, number), so a sweep that was stopped and resumed asks for the same points
as one that was not, given the same history.

    grid     every point in order
    random   number-th point of a seeded random stream            independent of the history
    qmc      number-th point of a seeded, scrambled Sobol sequence independent of the history
    tpe      qmc until ten results are known, then Optuna's tree-structured Parzen estimator (Bergstra 2011)

No sampler repeats a point of a space that can be listed: after the last one it returns None.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftcluster.config.grammar import Dimension, Interval
from ftcluster.contracts.trial import RunState
from ftcluster.errors import ConfigError
from ftcluster.sweep.space import Point, Space, grid_point, levels, override_words, size

SAMPLERS = ("grid", "random", "qmc", "tpe")
STARTUP = 10  # results below which an estimator knows less than an even spread
ATTEMPTS = 16  # asks of the estimator before the next unused point of the even spread is taken
MAX_DRAWS = 16  # log2 of the draws searched for new points before the rest is taken in grid order


@dataclass(frozen=True)
class Observation:
    """What is known about one trial of the sweep.

    ``value`` is the newest held-out metric, at rung ``rung``; None before the first. A trial that failed or
    reported NaN counts as worst, one without a value yet as a point not to crowd.
    """

    number: int
    point: Mapping[str, Any]
    state: RunState
    value: float | None = None
    rung: int = 0


def propose(
    space: Space, sampler: str, *, seed: int, direction: str, number: int, history: Sequence[Observation] = ()
) -> Point | None:
    """The point of trial ``number``, or None if every point was proposed already.

    ``history`` holds all other trials of the sweep, also those still running; its order does not matter.

    Raises:
        ConfigError: no such sampler; a grid over an interval.
    """
    if sampler == "grid":
        return grid_point(space, number)
    if sampler == "tpe":
        return _estimated(space, seed, direction, number, sorted(history, key=lambda seen: seen.number))
    if sampler in SAMPLERS:
        return next(itertools.islice(_stream(space, sampler, seed, number), number, None), None)
    raise ConfigError([f'sampler.name: "{sampler}" is not a sampler; use {", ".join(SAMPLERS)}'])


def _estimated(space: Space, seed: int, direction: str, number: int, history: list[Observation]) -> Point | None:
    seen = {_identity(observation.point) for observation in history}
    if len(seen) == size(space):
        return None
    if sum(observation.value is not None for observation in history) >= STARTUP:
        asked = itertools.islice(_asks(space, seed, direction, number, history), ATTEMPTS)
        if fresh := next((point for point in asked if _identity(point) not in seen), None):
            return fresh
    spread = _stream(space, "qmc", seed, number + len(seen))
    return next((point for point in spread if _identity(point) not in seen), None)


def _identity(point: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(override_words(point))


# The streams of random and qmc -----------------------------------------------------------------------------------


def _stream(space: Space, sampler: str, seed: int, last: int) -> Iterator[Point]:
    """Points from number 0 to at least ``last``, without repetition, as long as there are any."""
    keys = sorted(space)  # the order of keys in a file must not matter
    exponent = max(6, (last + 1).bit_length())
    if size(space) is None:
        for row in _draw(sampler, seed, len(keys), exponent):
            drawn = dict(zip(keys, row, strict=True))
            yield {key: _value(space[key], drawn[key]) for key in space}
        return
    seen: set[tuple[int, ...]] = set()
    choices = {key: values for key in keys if (values := levels(space[key])) is not None}
    in_grid_order = itertools.product(*(range(len(values)) for values in choices.values()))
    for indices in itertools.chain(_drawn_indices(space, keys, sampler, seed), in_grid_order):
        if indices not in seen:
            seen.add(indices)
            index = dict(zip(keys, indices, strict=True))
            yield {key: choices[key][index[key]] for key in space}


def _drawn_indices(space: Space, keys: list[str], sampler: str, seed: int) -> Iterator[tuple[int, ...]]:
    start = 0
    for exponent in range(6, MAX_DRAWS + 1, 2):
        for row in _draw(sampler, seed, len(keys), exponent)[start:]:
            yield tuple(_index(space[key], u) for key, u in zip(keys, row, strict=True))
        start = 2**exponent


def _draw(sampler: str, seed: int, dimensions: int, exponent: int) -> NDArray[np.float64]:
    """The first ``2**exponent`` rows of the sampler's sequence in the unit cube; a longer draw begins the same."""
    if sampler == "random" or not dimensions:
        return np.random.default_rng(seed).random((2**exponent, dimensions))
    from scipy.stats.qmc import Sobol  # type: ignore[import-untyped]  # no stubs; imported late, it takes 0.6 s

    rows: NDArray[np.float64] = Sobol(dimensions, scramble=True, rng=seed).random_base2(exponent)
    return rows


def _value(dimension: Dimension, u: float) -> Any:
    """Where the fraction ``u`` of a dimension lies, 0 <= u < 1."""
    values = levels(dimension)
    if values is not None:
        return values[_index(dimension, u)]
    assert isinstance(dimension, Interval)
    low, high = dimension.low, dimension.high
    value = low * math.pow(high / low, u) if dimension.log else low + (high - low) * float(u)
    return min(max(value, low), high)


def _index(dimension: Dimension, u: float) -> int:
    values = levels(dimension)
    assert values is not None
    if isinstance(dimension, Interval) and dimension.log:
        # Half a step beyond both ends, so that the first and the last number get their full share.
        low, high = dimension.low - 0.5, dimension.high + 0.5
        return min(max(round(low * math.pow(high / low, u)) - int(dimension.low), 0), len(values) - 1)
    return int(u * len(values))


# Optuna ----------------------------------------------------------------------------------------------------------


def _asks(space: Space, seed: int, direction: str, number: int, history: list[Observation]) -> Iterator[Point]:
    """What the estimator would try, best first; each next ask keeps away from those before."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    state = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(seed=state, n_startup_trials=0, constant_liar=True)
    study = optuna.create_study(sampler=sampler, direction=direction)
    distributions = {key: _distribution(space[key]) for key in sorted(space)}
    study.add_trials([_known(observation, space, distributions) for observation in history])
    while True:
        asked = study.ask(distributions).params
        yield {key: _decoded(space[key], asked[key]) for key in space}


def _distribution(dimension: Dimension) -> Any:
    import optuna.distributions as kinds

    if isinstance(dimension, Interval):
        if dimension.integer:
            return kinds.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
        return kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    values = levels(dimension)
    if isinstance(values, range):
        return kinds.IntDistribution(values[0], values[-1], step=values.step)
    # By index, since a choice may be a list, which Optuna does not take.
    return kinds.CategoricalDistribution(range(len(values or ())))


def _decoded(dimension: Dimension, value: Any) -> Any:
    values = levels(dimension)
    return values[value] if isinstance(values, tuple) else value


def _encoded(dimension: Dimension, value: Any) -> Any:
    values = levels(dimension)
    return values.index(value) if isinstance(values, tuple) else value


def _known(observation: Observation, space: Space, distributions: dict[str, Any]) -> Any:
    from optuna.trial import TrialState, create_trial

    failed = observation.state in (RunState.FAILED, RunState.KILLED)
    value = observation.value
    useful = value is not None and math.isfinite(value) and not failed
    if observation.state is RunState.FINISHED and useful:
        kind = TrialState.COMPLETE
    elif value is None and not failed:
        kind = TrialState.RUNNING
    else:  # stopped on the way, or waiting there: known at a rung; without any value Optuna ranks it last
        kind = TrialState.PRUNED
    return create_trial(
        state=kind,
        value=value if kind is TrialState.COMPLETE else None,
        params={key: _encoded(space[key], observation.point[key]) for key in distributions},
        distributions=distributions,
        intermediate_values={observation.rung: value} if kind is TrialState.PRUNED and useful else {},
    )
