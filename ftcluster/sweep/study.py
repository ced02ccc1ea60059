"""Which point a sweep tries next: ``propose`` is a function of the space, the seed and what is known so far.

Nothing that could matter is remembered between calls, so a sweep that was stopped and resumed asks for the same points
as one that was not, given the same history.

    grid     every point in order
    random   points of a seeded random stream             independent of the history
    qmc      points of a seeded, scrambled Sobol sequence  independent of the history
    tpe, gp, cmaes, nsga2   qmc until ten results are known, then an estimator (see ``estimators``)

No sampler proposes what breaks a constraint, or repeats a point: after the last one it returns None.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftcluster.errors import ConfigError
from ftcluster.sweep.estimators import ESTIMATORS, Question, asks
from ftcluster.sweep.observation import Observation
from ftcluster.sweep.space import Point, Space, grid, grid_point, levels, size
from ftcluster.sweep.unit import index_at, value_at

__all__ = ["ESTIMATORS", "SAMPLERS", "Observation", "propose"]

SAMPLERS = ("grid", "random", "qmc", *ESTIMATORS)
STARTUP = 10  # results below which an estimator knows less than an even spread
# Asks of an estimator before the next unused point of the even spread is taken; one of gp takes up to a second.
ATTEMPTS = {"tpe": 16, "gp": 3, "cmaes": 64, "nsga2": 64}
MAX_DRAWS = 16  # log2 of the draws searched for new points before the rest is taken in grid order, and at most
DRAWS = 32  # times the number of points


def propose(
    space: Space,
    sampler: str,
    *,
    seed: int,
    direction: str | Sequence[str],
    number: int,
    history: Sequence[Observation] = (),
    earlier: Sequence[Observation] = (),
) -> Point | None:
    """The point of the ``number``-th trial that the sampler proposes, or None if every point was proposed already.

    ``history`` holds the other trials of the sweep, also those still running and those that somebody named; its order
    does not matter. One that does not learn needs it only where somebody named a point that it could propose.
    ``earlier`` are trials of sweeps before, which may be repeated.

    Raises:
        ConfigError: no such sampler; a grid over an interval.
    """
    if sampler not in SAMPLERS:
        raise ConfigError([f'sampler.name: "{sampler}" is not a sampler; use {", ".join(SAMPLERS)}'])
    directions = (direction,) if isinstance(direction, str) else tuple(direction)
    if sampler in ESTIMATORS:
        question = Question(space, seed, directions, number)
        known = sorted((*earlier, *history), key=lambda seen: seen.number)
        return _estimated(sampler, question, known, history)
    if sampler == "grid":
        start: Iterator[Point] = itertools.islice(grid(space), number, None)
        first = grid_point(space, number)
        stream = start if first is None or _known(first, history) else iter((first,))
    else:
        stream = _stream(space, sampler, seed, number)
    return next((point for point in stream if not _known(point, history)), None)


def _estimated(
    sampler: str, question: Question, known: Sequence[Observation], history: Sequence[Observation]
) -> Point | None:
    space = question.space
    points = size(space)
    if points is not None and len({_identity(seen.point) for seen in history}) >= points:
        return None
    if space and sum(observation.value is not None for observation in known) >= STARTUP:
        asked = itertools.islice(asks(sampler, question, known), ATTEMPTS[sampler])
        if fresh := next((point for point in asked if space.allows(point) and not _known(point, history)), None):
            return fresh
    spread = _stream(space, "qmc", question.seed, 0)
    return next((point for point in spread if not _known(point, history)), None)


def _known(point: Mapping[str, Any], history: Sequence[Observation]) -> bool:
    return any(point == seen.point and _identity(point) == _identity(seen.point) for seen in history)


def _identity(point: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Of two points that are equal, 1 and true may still be different values."""
    return tuple(sorted((key, repr(value)) for key, value in point.items()))


def cut_share(space: Space) -> float:
    """Which share of draws breaks a constraint, as a sample tells; 0 where all points were looked at one by one."""
    if not space.constraints or space.listed is not None:
        return 0.0
    keys = sorted(space)
    rows = _draw("qmc", 0, len(keys), 9)
    return sum(not space.allows(space.reduced(_point(space, keys, row))) for row in rows) / len(rows)


# The streams of random and qmc -----------------------------------------------------------------------------------


def _stream(space: Space, sampler: str, seed: int, start: int) -> Iterator[Point]:
    """Points from number ``start`` on, without repetition, as long as there are any."""
    keys = sorted(space)  # the order of keys in a file must not matter
    if not _rules(space) and any(levels(dimension) is None for dimension in space.values()):
        return _free(space, keys, sampler, seed, start)
    return _sequence(space, sampler, seed).after(start)


class _Sequence:
    """Points that can be found one after the other only, as far as they were asked for; the same whoever asks."""

    def __init__(self, points: Iterator[Point]) -> None:
        self._points, self._known = points, list[Point]()

    def after(self, start: int) -> Iterator[Point]:
        for number in itertools.count(start):
            self._known += itertools.islice(self._points, max(0, number + 1 - len(self._known)))
            if number >= len(self._known):
                return
            yield self._known[number]


@lru_cache(maxsize=4)
def _sequence(space: Space, sampler: str, seed: int) -> _Sequence:
    keys = sorted(space)
    endless = any(levels(dimension) is None for dimension in space.values())
    return _Sequence(_ruled(space, keys, sampler, seed) if endless else _listed(space, keys, sampler, seed))


def _rules(space: Space) -> bool:
    return bool(space.when or space.constraints)


def _free(space: Space, keys: list[str], sampler: str, seed: int, start: int) -> Iterator[Point]:
    """Of a space without end and without rules every draw is a point of its own."""
    for exponent in itertools.count(max(6, (start + 1).bit_length())):
        for row in _draw(sampler, seed, len(keys), exponent)[start:]:
            yield _point(space, keys, row)
        start = 2**exponent


def _ruled(space: Space, keys: list[str], sampler: str, seed: int) -> Iterator[Point]:
    """Without end, but a draw may break a constraint, or differ from an earlier one only in keys not in use."""
    points = (space.reduced(_point(space, keys, row)) for row in _rows(space, sampler, seed))
    return _different(space, points)


def _listed(space: Space, keys: list[str], sampler: str, seed: int) -> Iterator[Point]:
    """Draws first, and then those that were never drawn, in grid order."""
    choices = {key: values for key in keys if (values := levels(space[key])) is not None}
    drawn = (
        tuple(index_at(space[key], u) for key, u in zip(keys, row, strict=True)) for row in _rows(space, sampler, seed)
    )
    in_grid_order = itertools.product(*(range(len(values)) for values in choices.values()))
    count = math.prod(map(len, choices.values()))
    indices = _once(itertools.chain(itertools.islice(drawn, DRAWS * count), in_grid_order), count)

    def point(found: tuple[int, ...]) -> Point:
        index = dict(zip(keys, found, strict=True))
        return space.reduced({key: choices[key][index[key]] for key in space})

    return _different(space, map(point, indices)) if _rules(space) else map(point, indices)


def _once(items: Iterable[tuple[int, ...]], count: int) -> Iterator[tuple[int, ...]]:
    """Each of the ``count`` items that there are once."""
    seen: set[tuple[int, ...]] = set()
    for item in items:
        if item not in seen:
            seen.add(item)
            yield item
        if len(seen) == count:
            return


def _different(space: Space, points: Iterable[Point]) -> Iterator[Point]:
    """Those that break no constraint, each once."""
    seen = set()
    for point in points:
        if (identity := _identity(point)) not in seen:
            seen.add(identity)
            if space.allows(point):
                yield point


def _point(space: Space, keys: Sequence[str], row: Sequence[float]) -> Point:
    drawn = dict(zip(keys, row, strict=True))
    return {key: value_at(space[key], drawn[key]) for key in space}


def _rows(space: Space, sampler: str, seed: int) -> Iterator[Sequence[float]]:
    start = 0
    for exponent in range(6, MAX_DRAWS + 1, 2):
        yield from _draw(sampler, seed, len(space), exponent)[start:].tolist()
        start = 2**exponent


@lru_cache(maxsize=8)
def _draw(sampler: str, seed: int, dimensions: int, exponent: int) -> NDArray[np.float64]:
    """The first ``2**exponent`` rows of the sampler's sequence in the unit cube; a longer draw begins the same."""
    if sampler == "random" or not dimensions:
        return np.random.default_rng(seed).random((2**exponent, dimensions))
    from scipy.stats.qmc import Sobol  # type: ignore[import-untyped]  # no stubs; imported late, it takes 0.6 s

    rows: NDArray[np.float64] = Sobol(dimensions, scramble=True, rng=seed).random_base2(exponent)
    return rows
