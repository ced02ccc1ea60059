"""A search space as data: how many points, which one is the n-th, and a point written as Hydra override words.

A space is a mapping of config key to ``Dimension``; a point maps the same keys to plain values. Owns no
randomness: ``study`` draws, this module says what can be drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftcluster.config.grammar import Choice, Dimension, Interval, IntRange
from ftcluster.errors import ConfigError

Space = Mapping[str, Dimension]
Point = dict[str, Any]

_BARE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RESERVED = {"true", "false", "null", "inf", "nan"}  # the grammar reads these as something else than a string


def levels(dimension: Dimension) -> Sequence[Any] | None:
    """The values a dimension can take, in order; None where they cannot be listed."""
    match dimension:
        case Choice(values):
            return values
        case IntRange(low, high, step):
            return range(low, high + 1, step)
        case Interval(low, high, integer=True):
            return range(int(low), int(high) + 1)
    return None


def size(space: Space) -> int | None:
    """Number of different points; None where there is no end of them."""
    each = [levels(dimension) for dimension in space.values()]
    return None if None in each else math.prod(len(values) for values in each if values is not None)


def grid(space: Space) -> Iterator[Point]:
    """Every point once; the last key changes fastest.

    Raises:
        ConfigError: an interval, which has no points to enumerate.
    """
    _check_grid(space)
    return (point_at(space, number) for number in range(size(space) or 0))


def grid_point(space: Space, number: int) -> Point | None:
    """The ``number``-th point of ``grid``, None after the last.

    Raises:
        ConfigError: an interval, which has no points to enumerate.
    """
    _check_grid(space)
    return point_at(space, number) if number < (size(space) or 0) else None


def point_at(space: Space, number: int) -> Point:
    """The ``number``-th point of a space that can be listed: the digits of ``number`` in mixed radix."""
    point: Point = {}
    for key, dimension in reversed(list(space.items())):
        values = levels(dimension)
        assert values is not None, key
        number, index = divmod(number, len(values))
        point[key] = values[index]
    return {key: point[key] for key in space}


def _check_grid(space: Space) -> None:
    problems = [
        f"space.{key}: the grid sampler cannot enumerate an interval; use range(1, 10, 2), "
        "choice(1e-4, 1e-3), or sampler.name=random, qmc or tpe"
        for key, dimension in space.items()
        if isinstance(dimension, Interval)
    ]
    if problems:
        raise ConfigError(problems)


def override_words(point: Mapping[str, Any]) -> list[str]:
    """``{"optim.lr": 1e-3, "model": "tiny"}`` -> ``["optim.lr=0.001", "model=tiny"]``; they read back as equal."""
    return [f"{key}={_written(value)}" for key, value in point.items()]


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(_written(item) for item in value)}]"
    if not isinstance(value, str):
        return repr(value)
    if _BARE_WORD.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    # In quotes a backslash is itself, except in a row of them that ends at a quote: those count double.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", escaped) + "'"


def describe(space: Space) -> str:
    """One line per key, then how many points there are."""
    width = max(map(len, space), default=0)
    count = size(space)
    lines = [f"{key:<{width}}  {_described(dimension)}" for key, dimension in space.items()]
    return "\n".join([*lines, "points without end" if count is None else f"{count} point{'s' * (count != 1)}"])


def _described(dimension: Dimension) -> str:
    match dimension:
        case Choice(values):
            return ", ".join(_written(value) for value in values)
        case IntRange(low, high, step):
            return f"{low} to {high}" + (f" in steps of {step}" if step != 1 else "")
        case Interval(low, high, log, integer):
            notes = ["log"] * log + ["whole numbers"] * integer
            return f"{low:g} to {high:g}" + (f" ({', '.join(notes)})" if notes else "")
