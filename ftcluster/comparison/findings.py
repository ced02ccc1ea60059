"""What a comparison found, as values: the trials in their order, their records, the differences with intervals.

Nothing here reads a file or draws anything; ``gather`` fills these, ``table`` and ``html`` show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.trial import RunState
from ftcluster.evaluation.bootstrap import Difference
from ftcluster.tracking.redaction import hide_secrets

Curve = tuple[tuple[int, float], ...]  # (optimizer step, value)


@dataclass(frozen=True)
class Differences:
    """One subject against one reference on the same test rows."""

    reference: str
    loss: Difference
    match: Difference | None  # None where the data has no answers

    @property
    def each(self) -> tuple[tuple[str, Difference], ...]:
        """What was measured and how it differs: ``exact match`` where there are answers, then ``loss``."""
        return (*((("exact match", self.match),) if self.match else ()), ("loss", self.loss))


@dataclass(frozen=True)
class Contender:
    """A trial of a sweep, or a training of its own."""

    name: str
    number: int
    state: RunState
    reason: str
    step: int
    folder: str
    parameters: Mapping[str, Any]  # what differs between the contenders, dotted key -> value
    config: Mapping[str, Any]  # all of it, dotted key -> value
    metrics: Mapping[str, float]  # newest on the validation split
    score: float | None  # of the metric the comparison ranks by
    tokens_per_s: float | None
    seconds: float | None  # wall time from start to end, None while it goes on
    curves: Mapping[str, Curve] = field(default_factory=dict)
    rungs: Curve = ()  # the score at each rung
    record: TestRecord | None = None
    against_base: Differences | None = None
    against_best: Differences | None = None  # None for the best itself


@dataclass(frozen=True)
class Comparison:
    """``contenders`` in order of rank: finished ones by score, then those stopped early, then those without a score."""

    title: str
    name: str  # of the sweep; empty when runs of their own are compared
    metric: str
    direction: str  # minimize | maximize
    contenders: tuple[Contender, ...]
    base: TestRecord | None
    log_keys: frozenset[str] = frozenset()  # parameters that are searched on a logarithmic scale
    facts: Mapping[str, str] = field(default_factory=dict)  # data and lineage, for people
    made_at: float = 0.0  # unix seconds

    @property
    def tested(self) -> tuple[Contender, ...]:
        """Those with a test record, best first."""
        return tuple(c for c in self.contenders if c.record is not None)

    @property
    def best(self) -> Contender | None:
        """The first by the validation metric; the test rows have no say in it."""
        return next((c for c in self.contenders if c.score is not None), None)

    @property
    def varied(self) -> tuple[str, ...]:
        """Keys of all parameters, in the order of their first appearance."""
        return tuple(dict.fromkeys(key for c in self.contenders for key in c.parameters))


def ranked(contenders: list[Contender], direction: str) -> list[Contender]:
    """Finished ones by score, then those stopped early by theirs, then the rest by number."""

    def place(contender: Contender) -> tuple[int, float, int, str]:
        if contender.score is None or contender.score != contender.score:  # NaN ranks with the unmeasured
            return 2, 0.0, contender.number, contender.name
        group = 0 if contender.state is RunState.FINISHED else 1
        score = contender.score if direction == "minimize" else -contender.score
        return group, score, contender.number, contender.name

    return sorted(contenders, key=place)


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys, without secrets, and without keys that differ between any two runs and mean nothing."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": item for inner, item in flat_config(value).items()}
        elif key not in ("name", "home"):
            found[key] = hide_secrets(key, value)
    return found


def short_names(keys: tuple[str, ...]) -> dict[str, str]:
    """``optim.lr`` -> ``lr``, unless another key ends the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def score_text(value: float | None) -> str:
    """A metric for people."""
    return "–" if value is None else f"{value:.4g}"


def value_text(value: Any) -> str:
    """A parameter's value for people: ``0.00030000001`` -> ``0.0003``, a list as its items."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(value_text(item) for item in value)
    return str(value)
