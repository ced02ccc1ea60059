"""What a sweep is going to do, worked out before anything is launched: trials, rungs, the config of each trial.

Owns turning a sweep's spec into numbers and a point into a checked config. Does not launch anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftcluster.config.checks import check
from ftcluster.config.compose import override
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.data.prepared.report import Report
from ftcluster.errors import ConfigError
from ftcluster.sweep.halving import rungs
from ftcluster.sweep.space import Space, levels, override_words, size
from ftcluster.sweep.specification import read_space
from ftcluster.training.bench import check_targets, prepare_data
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
    report: Report  # what became of its rows

    @property
    def eta(self) -> int:
        return self.spec.pruner.eta

    def respecified(self, spec: SweepConfig) -> SweepPlan:
        """The plan of the same sweep after it was extended."""
        return replace(self, spec=spec, trials=count_trials(spec, self.space))

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


def make_plan(spec: SweepConfig, base: RunConfig, *, progress: Callable[[int, int], None] | None = None) -> SweepPlan:
    """Read the space, prepare the data, and count.

    Raises:
        ConfigError: the space cannot be read, has keys or values that are none, or trials end before they are judged.
        DataError: the data cannot be used.
        ModelError: the model cannot be used, or lacks an adapter target of the space.
    """
    space = read_space(spec, base)
    for targets in levels(space["adapter.targets"]) or () if "adapter.targets" in space else ():
        check_targets(override(base, override_words({"adapter.targets": targets})))
    data = prepare_data(base, progress)
    steps = plan(base, data)
    return SweepPlan(
        name=spec.name,
        spec=spec,
        base=base,
        space=space,
        trials=count_trials(spec, space),
        rungs=_rungs(spec, steps),
        steps=steps,
        prepared=data.folder.name,
        report=data.report,
    )


def count_trials(spec: SweepConfig, space: Space) -> int:
    """How many trials a sweep has in all."""
    points = size(space)
    return spec.budget.trials if points is None else min(spec.budget.trials, points)


def _rungs(spec: SweepConfig, steps: Plan) -> tuple[int, ...]:
    if spec.pruner.name == "none":
        return (steps.total,)
    first = Duration.parse(spec.pruner.first)
    first_step = first.steps(steps_per_epoch=steps.steps_per_epoch, tokens_per_step=steps.tokens_per_step)
    if first_step >= steps.total:
        raise ConfigError(
            [
                f"pruner.first={spec.pruner.first} is step {first_step} and trials end at step {steps.total} "
                "(optim.duration), so none would be stopped early; lower pruner.first, or set pruner.name=none."
            ]
        )
    return rungs(first_step, spec.pruner.eta, steps.total)
