"""A search space as data: what can be drawn, which points there are, and a point written as Hydra override words.

A ``Space`` is a mapping of key to ``Dimension`` with rules between the keys; a point maps those keys that are in use
to plain values. A key whose condition does not hold is in no point, so that no two points differ in it alone; a
point that breaks a constraint is none. Owns no randomness: ``study`` draws, this module says what can be drawn.

    dimensions    key -> values it can take
    settings      key -> option -> what it sets: groups and variants, which stand for several config keys
    when          key -> condition on other keys
    constraints   what must hold for every point
    base          values of config keys that no point sets
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ftcluster.config.expression import Expression
from ftcluster.config.grammar import Choice, Dimension, Interval, IntRange
from ftcluster.errors import ConfigError

Point = dict[str, Any]
Settings = Mapping[str, Mapping[str, Mapping[str, Any]]]

MOST_COUNTED = 100_000  # points of a space with rules that are looked at one by one
_BARE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RESERVED = {"true", "false", "null", "inf", "nan"}  # the grammar reads these as something else than a string


@dataclass(frozen=True, eq=False)
class Space(Mapping[str, Dimension]):
    """See the module; without rules it is no more than its dimensions."""

    dimensions: Mapping[str, Dimension]
    settings: Settings = field(default_factory=dict)
    when: Mapping[str, Expression] = field(default_factory=dict)
    constraints: tuple[Expression, ...] = ()
    base: Mapping[str, Any] = field(default_factory=dict)

    __eq__, __hash__ = object.__eq__, object.__hash__  # those of a mapping would know nothing of the rules

    def __getitem__(self, key: str) -> Dimension:
        return self.dimensions[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.dimensions)

    def __len__(self) -> int:
        return len(self.dimensions)

    @cached_property
    def config_keys(self) -> frozenset[str]:
        """Config keys that differ between points: groups and variants stand for what they set."""
        return frozenset().union(*(self.sets(key) if key in self.settings else {key} for key in self))

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The keys so that each comes behind those its condition looks at; otherwise by name, not as in the file.

        Raises:
            ConfigError: conditions that wait for each other.
        """
        found: list[str] = []
        left = sorted(self)
        while left:
            ready = next((key for key in left if not self._looks_at(key) & set(left)), None)
            if ready is None:
                raise ConfigError([f"when: the conditions of {', '.join(left)} depend on each other."])
            found.append(ready)
            left.remove(ready)
        return tuple(found)

    def _looks_at(self, key: str) -> set[str]:
        """The keys of the space that decide whether this one is in use."""
        asked = self.when[key].keys if key in self.when else frozenset()
        return {other for other in self if other != key and (other in asked or asked & self.sets(other))}

    def sets(self, key: str) -> frozenset[str]:
        """The config keys that the options of a group or variant set."""
        return frozenset(name for option in self.settings.get(key, {}).values() for name in option)

    def config_values(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """What conditions and constraints look at: the whole config, as a point has it."""
        return {**self.base, **self._set_by(point), **point}

    def _set_by(self, point: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in point:
            if key in self.settings:
                found |= self.settings[key][str(point[key])]
        return found

    def in_use(self, key: str, point: Mapping[str, Any]) -> bool:
        """Whether a key belongs to a point, given those before it in ``order``."""
        return key not in self.when or self.when[key].holds(self.config_values(point))

    def reduced(self, drawn: Mapping[str, Any]) -> Point:
        """A value for every key -> a point: without the keys that are not in use."""
        if not self.when:
            return {key: drawn[key] for key in self}
        point: Point = {}
        for key in self.order:
            if self.in_use(key, point):
                point[key] = drawn[key]
        return {key: point[key] for key in self if key in point}

    def allows(self, point: Mapping[str, Any]) -> bool:
        """Whether a point breaks no constraint."""
        if not self.constraints:
            return True
        values = self.config_values(point)
        return all(constraint.holds(values) for constraint in self.constraints)

    def located(self, values: Mapping[str, Any]) -> Point | None:
        """The point of this space that a config, given by its keys, is at; None: it is at none."""
        point: Point = {}
        for key in self.order:
            if not self.in_use(key, point):
                continue
            value = values.get(key)
            if key in self.settings and key not in values:
                options = self.settings[key].items()
                value = next((o for o, found in options if all(values.get(k) == v for k, v in found.items())), None)
            if value is None or not contains(self[key], value):
                return None
            point[key] = next((each for each in levels(self[key]) or () if each == value), value)  # 8, not 8.0
        return {key: point[key] for key in self if key in point} if self.allows(point) else None

    def words(self, point: Mapping[str, Any]) -> list[str]:
        """A point as override words; a key of its own beats the group that sets it too."""
        own = {key: value for key, value in point.items() if key not in self.settings}
        return override_words({**self._set_by(point), **own})

    @cached_property
    def listed(self) -> tuple[Sequence[int], int] | None:
        """The numbers of all points among the values of the dimensions, and how many break a constraint.

        None where they have no end, or there are too many to look at.
        """
        count = _product(self)
        if count is None or not (self.when or self.constraints):
            return None if count is None else (range(count), 0)
        if count > MOST_COUNTED:
            return None
        distinct = [number for number in range(count) if self._stands(number)]
        allowed = [number for number in distinct if self.allows(self.reduced(point_at(self, number)))]
        return allowed, len(distinct) - len(allowed)

    def _stands(self, number: int) -> bool:
        """Whether it is the one that is taken of those that differ only in keys that are not in use."""
        drawn = point_at(self, number)
        point = self.reduced(drawn)
        return all(key in point or drawn[key] == _first(self[key]) for key in self)


def _first(dimension: Dimension) -> Any:
    values = levels(dimension)
    return values[0] if values else None


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


def contains(dimension: Dimension, value: Any) -> bool:
    """Whether a dimension can take a value."""
    values = levels(dimension)
    if values is not None:
        return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)
    assert isinstance(dimension, Interval)
    return isinstance(value, int | float) and dimension.low <= value <= dimension.high


def _product(space: Space) -> int | None:
    each = [levels(dimension) for dimension in space.values()]
    return None if None in each else math.prod(len(values) for values in each if values is not None)


def size(space: Space) -> int | None:
    """Number of different points; None where there is no end of them, or they are too many to be looked at."""
    return None if space.listed is None else len(space.listed[0])


def grid(space: Space) -> Iterator[Point]:
    """Every point once; the last key changes fastest.

    Raises:
        ConfigError: an interval, which has no points to enumerate.
    """
    _check_grid(space)
    return (space.reduced(point_at(space, number)) for number in _numbers(space))


def grid_point(space: Space, number: int) -> Point | None:
    """The ``number``-th point of ``grid``, None after the last.

    Raises:
        ConfigError: an interval, which has no points to enumerate.
    """
    _check_grid(space)
    numbers = _numbers(space)
    return space.reduced(point_at(space, numbers[number])) if number < len(numbers) else None


def _numbers(space: Space) -> Sequence[int]:
    return space.listed[0] if space.listed else ()


def point_at(space: Space, number: int) -> Point:
    """The ``number``-th combination of values that can be listed: the digits of ``number`` in mixed radix."""
    point: Point = {}
    for key in reversed(list(space)):
        values = levels(space[key])
        assert values is not None, key
        number, index = divmod(number, len(values))
        point[key] = values[index]
    return {key: point[key] for key in space}


def _check_grid(space: Space) -> None:
    problems = [
        f"space.{key}: the grid sampler cannot enumerate an interval; use range(1, 10, 2), "
        "choice(1e-4, 1e-3), or sampler.name=random, qmc or tpe"
        for key in space
        if isinstance(space[key], Interval)
    ]
    if not problems and space.listed is None:
        problems = [
            f"space: more than {MOST_COUNTED:,} combinations with conditions or constraints; use another sampler"
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
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_written(str(key))}:{_written(item)}" for key, item in value.items()) + "}"
    if not isinstance(value, str):
        return repr(value)
    if _BARE_WORD.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    # In quotes a backslash is itself, except in a row of them that ends at a quote: those count double.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", escaped) + "'"


def describe(space: Space) -> str:
    """One line per key, then what rules there are and how many points they leave."""
    width = max(map(len, space), default=0)
    rows = [f"{key:<{width}}  {_described(space[key])}{_condition(space, key)}" for key in space]
    rows += [f"only where {constraint.text}" for constraint in space.constraints]
    return "\n".join([*rows, _counted(space)])


def _condition(space: Space, key: str) -> str:
    return f"   where {space.when[key].text}" if key in space.when else ""


def _counted(space: Space) -> str:
    if space.listed is None:
        return "points without end" if _product(space) is None else "too many points to count"
    numbers, cut = space.listed
    left = f"{len(numbers)} point{'s' * (len(numbers) != 1)}"
    return f"{left}; {cut} more would break a constraint and {'is' if cut == 1 else 'are'} left out" if cut else left


def _described(dimension: Dimension) -> str:
    match dimension:
        case Choice(values):
            return ", ".join(_written(value) for value in values)
        case IntRange(low, high, step):
            return f"{low} to {high}" + (f" in steps of {step}" if step != 1 else "")
        case Interval(low, high, log, integer):
            notes = ["log"] * log + ["whole numbers"] * integer
            return f"{low:g} to {high:g}" + (f" ({', '.join(notes)})" if notes else "")
