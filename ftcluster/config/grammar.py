"""Search spaces in Hydra's override grammar: ``choice(4, 8, 16)``, ``tag(log, interval(1e-5, 1e-2))``, ``1e-3,1e-4``.

Owns the reading of expressions into ``Dimension`` values. What is done with a space (enumerating, sampling,
writing a point back as override words) is the sweep's business.

    choice(a, b), a,b, a YAML list    Choice      plain values, lists and strings included
    range(1, 10, 2)                   IntRange    1, 3, 5, 7, 9: the end is left out, as in Python
    range(0, 1, 0.25)                 Choice      0.0, 0.25, 0.5, 0.75
    interval(0, 0.3)                  Interval    any float from low to high
    tag(log, interval(1e-5, 1e-2))    Interval    spread evenly over the orders of magnitude
    tag(int, interval(1, 64))         Interval    whole numbers, both ends included
    8, cosine                         Choice      one value: fixed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from hydra.errors import HydraException

from ftcluster.errors import ConfigError

MAX_LEVELS = 10_000  # values of one float range; more is a slip of the pen
EXAMPLES = {
    "choice": "choice(4, 8, 16)",
    "range": "range(1, 10, 2)",
    "tag": "tag(log, interval(1e-5, 1e-2))",
    "interval": "interval(0, 0.3)",
}
QUOTED = "choice('中文', 'a, b')"  # for what the grammar does not take as it stands


@dataclass(frozen=True)
class Choice:
    """One of a few values: int, float, str, bool, or a list of these."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class IntRange:
    """``low, low + step, ... high``, both ends included."""

    low: int
    high: int
    step: int = 1


@dataclass(frozen=True)
class Interval:
    """``low <= value <= high``; whole numbers only where ``integer``."""

    low: float
    high: float
    log: bool = False
    integer: bool = False


Dimension = Choice | IntRange | Interval


class _GrammarError(Exception):
    """What is wrong with one expression, and one that would be right."""

    def __init__(self, what: str, example: str = EXAMPLES["choice"]) -> None:
        super().__init__(what)
        self.example = example

    def at(self, place: str, key: str) -> str:
        return f"{place}: {self}; write for example {key}{self.example}"


def parse_space(space: Mapping[str, Any]) -> dict[str, Dimension]:
    """Read the ``space:`` mapping of a sweep file. A YAML list is a choice, taken as it stands; a scalar is fixed.

    Raises:
        ConfigError: every unusable entry, each with an example of a right one.
    """
    found: dict[str, Dimension] = {}
    problems: list[str] = []
    for key, value in space.items():
        try:
            found[key] = _entry(key, value)
        except _GrammarError as refused:
            problems.append(refused.at(f"space.{key}", f"{key}: "))
        except ConfigError as refused:
            problems += refused.problems
    if problems:
        raise ConfigError(problems)
    return found


def split_overrides(words: Sequence[str]) -> tuple[list[str], dict[str, Dimension]]:
    """Part command-line words into those that set a value, left as they are, and those that sweep one.

    Raises:
        ConfigError: every word that cannot be read, each with an example of a right one.
    """
    fixed: list[tuple[str, str]] = []
    swept: dict[str, Dimension] = {}
    problems: list[str] = []
    for word in words:
        key = word.partition("=")[0]
        try:
            override = _parse(word)
            key = override.get_key_element()
            if not override.is_sweep_override():
                fixed.append((key, word))
            elif key in swept:
                raise _GrammarError("is swept twice", "1e-3,1e-4")
            else:
                swept[key] = _sweep(override)
        except _GrammarError as refused:
            problems.append(refused.at(word, f"'{key}=") + "'")
    problems += [f"{key} is both set ({word}) and swept; keep one of them" for key, word in fixed if key in swept]
    if problems:
        raise ConfigError(problems)
    return [word for _, word in fixed], swept


def _entry(key: Any, value: Any) -> Dimension:
    if not isinstance(key, str) or not _is_key(key):
        raise ConfigError([f"space.{key}: is not a config key; use names and dots, such as optim.lr"])
    if isinstance(value, list | tuple):
        return _choice(value)
    if not isinstance(value, str):
        return Choice((_plain(value),))
    override = _parse(f"{key}={value.strip()}")
    return _sweep(override) if override.is_sweep_override() else Choice((_plain(override.value()),))


def _is_key(text: str) -> bool:
    try:
        override = _parse(f"{text}=0")
    except _GrammarError:
        return False
    return text != "" and not override.is_delete() and bool(override.get_key_element() == text)


def _parse(word: str) -> Override:
    functions = create_functions()
    functions.functions |= {"shuffle": _no_shuffle, "glob": _no_glob}
    try:
        return OverridesParser(functions).parse_override(word)
    except HydraException as error:
        if isinstance(refused := error.__cause__, _GrammarError):
            raise refused from None
        expression = word.partition("=")[2]
        reason = str(error).splitlines()[0].split(" expecting ")[0].split(" is incompatible ")[0].rpartition("': ")[2]
        example = next((example for name, example in EXAMPLES.items() if name in expression), EXAMPLES["choice"])
        example = example if expression.isascii() else QUOTED
        raise _GrammarError(f'"{expression}" cannot be read ({reason})', example) from None


# Hydra looks at the parameters' names and types, so both accept anything.
def _no_shuffle(*args: Any, sweep: Any = None, list: Any = None) -> None:  # noqa: ARG001 - Hydra's own names
    raise _GrammarError("shuffle is not repeatable; list the values, the sampler's seed decides the order")


def _no_glob(include: Any, exclude: Any = None) -> None:  # noqa: ARG001 - Hydra's own names
    raise _GrammarError("glob is not supported; name the options")


def _sweep(override: Override) -> Dimension:
    sweep = override.value()
    readers: dict[type, Callable[[Any], Dimension]] = {
        ChoiceSweep: lambda choice: _choice(choice.list),
        RangeSweep: _range,
        IntervalSweep: _interval,
    }
    if sweep.tags and not isinstance(sweep, IntervalSweep):
        raise _GrammarError("only an interval can be tagged", EXAMPLES["tag"])
    return readers[type(sweep)](sweep)


def _choice(values: Sequence[Any]) -> Choice:
    plain = tuple(_plain(value) for value in values)
    if not plain:
        raise _GrammarError("has no values to choose from")
    names = [f"{type(value).__name__} {value!r}" for value in plain]
    if twice := sorted({str(plain[names.index(name)]) for name in names if names.count(name) > 1}):
        raise _GrammarError(f"lists {', '.join(twice)} twice")
    return Choice(plain)


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise _GrammarError(f"{value} is not a finite number")
    if isinstance(value, str | int | float):  # bool is an int
        return value
    kind = {"NoneType": "null", "dict": "a mapping"}.get(type(value).__name__, "a sweep inside a value")
    raise _GrammarError(f"{kind} is not a value to choose; use numbers, strings, true/false and lists of them")


def _range(sweep: RangeSweep) -> Dimension:
    start, stop, step = (Decimal(str(part)) for part in (sweep.start, sweep.stop, sweep.step))
    if not all(part.is_finite() for part in (start, stop, step)) or not step:
        raise _GrammarError("a range needs finite ends and a step other than 0", EXAMPLES["range"])
    count = math.ceil((stop - start) / step)
    if count < 1:
        raise _GrammarError(f"range({start}, {stop}, {step}) is empty", EXAMPLES["range"])
    if all(isinstance(part, int) for part in (sweep.start, sweep.stop, sweep.step)):
        ends = sorted((int(start), int(start + (count - 1) * step)))
        return IntRange(ends[0], ends[1], abs(int(step)))
    if count > MAX_LEVELS:
        raise _GrammarError(f"the range has {count} values; use an interval", EXAMPLES["interval"])
    return Choice(tuple(float(start + index * step) for index in range(count)))


def _interval(sweep: IntervalSweep) -> Interval:
    if unknown := sorted(sweep.tags - {"log", "int"}):
        raise _GrammarError(f"unknown tag {', '.join(unknown)}; known: log, int", EXAMPLES["tag"])
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    integer = "int" in sweep.tags or (isinstance(low, int) and isinstance(high, int))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise _GrammarError(f"interval({low:g}, {high:g}) needs a low end below its high end", EXAMPLES["interval"])
    if log and low <= 0:
        raise _GrammarError(f"a log interval must start above 0, not at {low:g}", EXAMPLES["tag"])
    if not integer:
        return Interval(float(low), float(high), log)
    if low != int(low) or high != int(high):
        raise _GrammarError(
            f"interval({low:g}, {high:g}) of whole numbers needs whole ends", "tag(int, interval(1, 64))"
        )
    return Interval(int(low), int(high), log, integer=True)
