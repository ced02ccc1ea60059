"""The trials a sweep would have: those its sampler proposes, or a fair sample where it learns from results.

Trials are alike, of one **kind**, if they take the same memory and the same time for a step; what differs between them
is the learning rate, say. How long they train is no part of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ftcluster.config.catalog import flat
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.trial import NAMED
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.errors import ConfigError
from ftcluster.sweep.bundles import named_values, read_words
from ftcluster.sweep.datasets import Datasets
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.space import Point, levels, override_words
from ftcluster.sweep.study import ESTIMATORS, propose
from ftcluster.training.session import Plan
from ftcluster.training.session import plan as plan_of

MOST = 512  # trials that are looked at one by one; further ones are taken to be like these
_CORNERS = 128  # combinations of what matters that are looked at besides

_SECTIONS = ("model", "data", "objective", "engine", "evaluation", "cluster")
_KEYS = (
    "adapter.kind",
    "adapter.rank",
    "adapter.targets",
    "adapter.dora",
    "adapter.dropout",
    "optim.batch_size",
    "optim.micro_batch",
    "optim.micro_tokens",
)


def matters(key: str) -> bool:
    """Whether memory, or the time of a step, depends on a config key."""
    return key in _KEYS or key.partition(".")[0] in _SECTIONS


@dataclass(frozen=True)
class Kind:
    """The values that matter, as text, by config key."""

    parts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, config: RunConfig) -> Kind:
        values = {key: value for key, value in flat(config).items() if matters(key)}
        values["adapter.dropout"] = values["adapter.dropout"] > 0  # drawing masks costs something, whatever the share
        return cls(tuple((key, repr(value)) for key, value in values.items()))


@dataclass(frozen=True)
class Imagined:
    """A trial that may come to be. ``overrides`` are for people."""

    overrides: Mapping[str, Any]
    config: RunConfig

    @cached_property
    def kind(self) -> Kind:
        return Kind.of(self.config)


@dataclass
class Lengths:
    """Steps of trainings and the data they read, each worked out once."""

    _datasets: Datasets = field(default_factory=Datasets)
    _plans: dict[tuple[Kind, str, str], Plan] = field(default_factory=dict)

    def data(self, config: RunConfig) -> PreparedData:
        return self._datasets.of(config)

    def plan(self, trial: Imagined) -> Plan:
        config = trial.config
        key = (trial.kind, config.optim.duration, config.engine.checkpoint_every)
        if key not in self._plans:
            self._plans[key] = plan_of(config, self.data(config))
        return self._plans[key]


def imagine(plan: SweepPlan, most: int = MOST) -> list[Imagined]:
    """In the order in which they would be proposed; those whose values are no config are not among them."""
    trials: list[Imagined] = []
    for overrides, words in itertools.islice(_proposed(plan), min(most, plan.trials // plan.spec.repeats)):
        if (made := _made(plan, overrides, words)) is not None:
            trials += [made] * plan.spec.repeats
    return trials


def corners(plan: SweepPlan) -> list[Imagined]:
    """Trials at all combinations of what matters for memory, or of its ends, that the space allows."""
    if (start := _point(plan, 0)) is None:
        return []
    space = plan.space
    drawn = {key: _ends(plan, key)[0] for key in space} | start
    keys = [key for key in space if any(map(matters, space.sets(key) if key in space.settings else (key,)))]
    each = [levels(space[key]) or _ends(plan, key) for key in keys]
    if _product(each) > _CORNERS:
        each = [values if key in space.settings else _ends(plan, key) for key, values in zip(keys, each, strict=True)]
    found = []
    for values in itertools.islice(itertools.product(*each), _CORNERS):
        point = space.reduced({**drawn, **dict(zip(keys, values, strict=True))})
        if space.allows(point) and (made := _made(plan, point, space.words(point))) is not None:
            found.append(made)
    return found


def _product(each: Sequence[Sequence[Any]]) -> int:
    count = 1
    for values in each:
        count *= len(values)
    return count


def _ends(plan: SweepPlan, key: str) -> Sequence[Any]:
    dimension = plan.space[key]
    values = levels(dimension)
    if values is None:
        return (dimension.low, dimension.high)  # type: ignore[union-attr]  # what cannot be listed is an interval
    return (values[0], values[-1])


def _proposed(plan: SweepPlan) -> Iterator[tuple[Mapping[str, Any], list[str]]]:
    """What the next trials would be, and the words that make their configs."""
    spec = plan.spec
    for name in spec.always:
        yield {NAMED: name, **read_words(spec.always[name])}, override_words(named_values(spec, name))
    for number in itertools.count():
        if (point := _point(plan, number)) is None:
            return
        yield point, plan.space.words(point)


def _point(plan: SweepPlan, number: int) -> Point | None:
    """A sampler that learns begins with an even spread; where it would go then is not known."""
    sampler = plan.spec.sampler
    name = "qmc" if sampler.name in ESTIMATORS else sampler.name
    return propose(plan.space, name, seed=sampler.seed, direction=plan.spec.direction, number=number)


def _made(plan: SweepPlan, overrides: Mapping[str, Any], words: Sequence[str]) -> Imagined | None:
    try:
        return Imagined(overrides, plan.trial_config(0, words))
    except ConfigError:
        return None


def differing(kinds: Sequence[Kind]) -> list[str]:
    """The config keys in which kinds differ."""
    each = [dict(kind.parts) for kind in kinds]
    return [key for key in each[0] if len({parts[key] for parts in each}) > 1] if each else []
