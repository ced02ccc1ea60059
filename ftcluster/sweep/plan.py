"""What a sweep is going to do, worked out before anything is launched: trials, rungs, the config of each trial.

Owns turning a sweep's spec into numbers and a point into a checked config. Does not launch anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcluster.config.checks import check, check_sweep
from ftcluster.config.compose import compose, override
from ftcluster.config.grammar import Choice, Dimension, IntRange, parse_space, split_overrides
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.config.sweepfile import load_sweep
from ftcluster.errors import ConfigError
from ftcluster.sweep.halving import rungs
from ftcluster.sweep.space import Space, override_words, size
from ftcluster.training.bench import prepare_data
from ftcluster.training.session import Plan, plan
from ftcluster.units import Duration


@dataclass(frozen=True)
class SweepPlan:
    """Everything about a sweep that is known before its first trial."""

    name: str
    spec: SweepConfig
    base: RunConfig
    space: Space
    trials: int
    rungs: tuple[int, ...]  # optimizer steps of the base config at which trials are judged; the last is the end
    steps: Plan  # of the base config
    prepared: str  # hash of the base config's prepared data

    @property
    def eta(self) -> int:
        return self.spec.pruner.eta

    def until(self, rung: int, total: int) -> int:
        """The step of a rung for a trial whose whole training takes ``total`` steps."""
        return math.ceil(self.rungs[rung] * total / self.rungs[-1] - 1e-9)

    def trial_name(self, number: int) -> str:
        return f"{self.name}-{number:0{max(2, len(str(self.trials - 1)))}}"

    def trial_config(self, number: int, point: Mapping[str, Any]) -> RunConfig:
        """The base config with a point's values.

        Raises:
            ConfigError: the values do not fit each other.
        """
        config = override(replace(self.base, name=self.trial_name(number)), override_words(point))
        check(config)
        return config

    @property
    def steps_at_most(self) -> int:
        """Optimizer steps of all trials together if every rung keeps its share."""
        total, count, done = 0, self.trials, 0
        for rung in self.rungs:
            total += count * (rung - done)
            done, count = rung, max(1, count // self.eta)
        return total


def read_sweep(file: str, words: Sequence[str], *, config_dir: Path | None = None) -> tuple[SweepConfig, RunConfig]:
    """A sweep file and command-line words as one self-contained spec, and the config its trials start from.

    Whether the files it names are there is ``check_files``' business.

    Fixed words join the spec's ``base``, swept ones its ``space``.

    Raises:
        ConfigError: all problems of the file, the words and the base config.
    """
    spec, rest = load_sweep(file, words, config_dir=config_dir)
    fixed, swept = split_overrides(rest)
    expressions = {key: text for key, _, text in (word.partition("=") for word in rest) if key in swept}
    spec = replace(spec, base=[*spec.base, *fixed], space={**spec.space, **expressions})
    base = compose(spec.base, config_dir=config_dir)
    problems: list[str] = []
    looks: list[Callable[[], None]] = [lambda: check(base), lambda: check_sweep(spec, base)]
    for look in looks:
        try:
            look()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems, where=str(file))
    return spec, base


def make_plan(spec: SweepConfig, base: RunConfig, *, progress: Callable[[int, int], None] | None = None) -> SweepPlan:
    """Read the space, prepare the data, and count.

    Raises:
        ConfigError: the space cannot be read, or has keys or values that are none.
        DataError: the data cannot be used.
    """
    space = parse_space(spec.space)
    check_space(space, base)
    data = prepare_data(base, progress)
    steps = plan(base, data)
    points = size(space)
    return SweepPlan(
        name=spec.name,
        spec=spec,
        base=base,
        space=space,
        trials=spec.budget.trials if points is None else min(spec.budget.trials, points),
        rungs=_rungs(spec, steps),
        steps=steps,
        prepared=data.folder.name,
    )


def check_space(space: Space, base: RunConfig) -> None:
    """Refuse keys and types now that would make trials fail later.

    Raises:
        ConfigError: unknown keys, and values that a key cannot have; all of them.
    """
    problems: dict[str, None] = {}
    for key, dimension in space.items():
        for value in _samples(dimension):
            try:
                override(base, override_words({key: value}))
            except ConfigError as error:
                problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(list(problems), where="space")


def _samples(dimension: Dimension) -> Sequence[Any]:
    """All values of a choice; of a range or interval its low end, and for fractions one that is no whole number."""
    if isinstance(dimension, Choice):
        return dimension.values
    whole = isinstance(dimension, IntRange) or dimension.integer
    return (dimension.low,) if whole else (math.nextafter(dimension.low, dimension.high),)


def _rungs(spec: SweepConfig, steps: Plan) -> tuple[int, ...]:
    if spec.pruner.name == "none":
        return (steps.total,)
    first = Duration.parse(spec.pruner.first)
    first_step = first.steps(steps_per_epoch=steps.steps_per_epoch, tokens_per_step=steps.tokens_per_step)
    return rungs(first_step, spec.pruner.eta, steps.total)
