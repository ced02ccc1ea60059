"""What a sweep is going to do, worked out before anything is launched: trials, rungs, the config of each trial.

Owns turning a sweep's spec into numbers and a point into a checked config. Does not launch anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ftcluster.config.catalog import flat
from ftcluster.config.checks import check
from ftcluster.config.compose import override
from ftcluster.config.expression import Expression
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.config.values import to_dict, to_dict_like
from ftcluster.data.prepared.report import Report
from ftcluster.errors import ConfigError
from ftcluster.sweep.bundles import named_point
from ftcluster.sweep.comparable import check_comparable
from ftcluster.sweep.earlier import earlier as look_back
from ftcluster.sweep.halving import rungs
from ftcluster.sweep.observation import Observation
from ftcluster.sweep.space import Space, levels, size
from ftcluster.sweep.specification import read_space
from ftcluster.sweep.survivors import reaching
from ftcluster.training.bench import check_targets, prepare_data
from ftcluster.training.session import Plan, plan
from ftcluster.training.sharding import check_layout
from ftcluster.units import Duration

MOST_RUNGS = 1000


@dataclass(frozen=True)
class Fitted:
    """What was found too large for its GPUs when the sweep began, as expressions over config keys."""

    cut: tuple[str, ...] = ()  # what every trial must keep
    adapted: tuple[tuple[str, tuple[str, ...]], ...] = ()  # trials of which an expression holds -> words for them

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Fitted:
        """As the ledger has it."""
        adapted = tuple((condition, tuple(words)) for condition, words in stored.get("adapted", ()))
        return cls(tuple(stored.get("cut", ())), adapted)

    def words(self, config: RunConfig) -> tuple[str, ...]:
        """What makes a trial fit; nothing where it does."""
        if not self.adapted:
            return ()
        values = flat(config)
        return next((words for condition, words in self.adapted if Expression(condition).holds(values)), ())


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
    earlier: tuple[Observation, ...] = ()  # what sweeps before it know about its points
    fitted: Fitted = Fitted()

    @property
    def eta(self) -> int:
        return self.spec.pruner.eta

    def with_fitted(self, fitted: Fitted) -> SweepPlan:
        """The plan without trials that are too large."""
        space = replace(self.space, constraints=(*self.space.constraints, *map(Expression, fitted.cut)))
        return replace(self, space=space, trials=count_trials(self.spec, space), fitted=fitted)

    def respecified(self, spec: SweepConfig) -> SweepPlan:
        """The plan of the same sweep after it was extended."""
        return replace(self, spec=spec, trials=count_trials(spec, self.space))

    def until(self, rung: int, total: int) -> int:
        """The step of a rung for a trial whose whole training takes ``total`` steps."""
        return math.ceil(self.rungs[rung] * total / self.rungs[-1] - 1e-9)

    def trial_name(self, number: int) -> str:
        return f"{self.name}-{number:0{max(2, len(str(self.trials - 1)))}}"

    def trial_config(self, number: int, words: Sequence[str]) -> RunConfig:
        """The base config with a trial's words.

        Raises:
            ConfigError: the values do not fit each other.
        """
        config = override(replace(self.base, name=self.trial_name(number)), words)
        config = override(config, self.fitted.words(config))
        check(config)
        check_layout(config)
        return config

    def content(self, config: RunConfig) -> dict[str, Any]:
        """``to_dict`` of a trial's config; parts that no word changed are the same objects in all, so leave them."""
        return to_dict_like(config, self.base, self._base)

    @cached_property
    def _base(self) -> dict[str, Any]:
        return to_dict(self.base)

    @property
    def steps_at_most(self) -> int:
        """Optimizer steps of all trials together if every rung keeps its share."""
        reached = reaching(self.spec, self.trials, len(self.rungs))
        steps = (rung - before for rung, before in zip(self.rungs, (0, *self.rungs[:-1]), strict=True))
        return sum(count * each for count, each in zip(reached, steps, strict=True))


def make_plan(
    spec: SweepConfig,
    base: RunConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
    earlier: Sequence[Observation] | None = None,
) -> SweepPlan:
    """Read the space, prepare the data, and count. ``earlier``: what is known of sweeps before it; None: look.

    Raises:
        ConfigError: the space cannot be read, has keys or values that are none, or trials end before they are judged;
            or DeepSpeed cannot do what the base says.
        DataError: the data cannot be used.
        ModelError: the model cannot be used, or lacks an adapter target of the space.
        UsageError: a sweep to learn from is not there, or its values mean something else.
    """
    space = read_space(spec, base)
    decided = {name.split(".")[0] for key in space for name in space.sets(key) or {key}}
    if decided.isdisjoint({"engine", "cluster"}):  # else each trial is looked at
        check_layout(base)
    _check_targets(space, base)
    data = prepare_data(base, progress)
    check_comparable(spec, space, base, data, progress)
    steps = plan(base, data)
    judged = _rungs(spec, steps)
    if earlier is None:
        earlier = look_back(spec, base, space, data, len(judged))
    return SweepPlan(
        name=spec.name,
        spec=spec,
        base=base,
        space=space,
        trials=count_trials(spec, space),
        rungs=judged,
        steps=steps,
        prepared=data.folder.name,
        report=data.report,
        earlier=tuple(earlier),
    )


def count_trials(spec: SweepConfig, space: Space) -> int:
    """How many trials a sweep has in all: those that are proposed, and besides those that somebody named."""
    points, proposed = size(space), spec.budget.trials
    if points is not None:
        named = [point for name in spec.always if (point := named_point(spec, space, name)) is not None]
        proposed = min(proposed, points - sum(point not in named[:place] for place, point in enumerate(named)))
    return (proposed + len(spec.always)) * spec.repeats


def _check_targets(space: Space, base: RunConfig) -> None:
    """Refuse adapter targets of a space that the model does not have."""
    key = "adapter.targets"
    found = [{key: targets} for targets in (levels(space[key]) or () if key in space else ())]
    found += [{name: option} for name in space.settings if key in space.sets(name) for option in space.settings[name]]
    for point in found:
        if (config := override(base, space.words(point))).adapter.kind != "none":
            check_targets(config)


def _rungs(spec: SweepConfig, steps: Plan) -> tuple[int, ...]:
    """The steps of the base config at which trials are judged, and the last one."""
    pruner = spec.pruner
    if pruner.name == "none" and not pruner.patience and not pruner.threshold:
        return (steps.total,)
    # Rounded up, or the last judgement would be a few steps before the end.
    first = _in_steps(pruner.first, steps) if pruner.first else -(-steps.total // pruner.eta**2)
    if first >= steps.total:
        raise ConfigError(
            [
                f"pruner.first={pruner.first or 'total / eta / eta'} is step {first} and trials end at step "
                f"{steps.total} (optim.duration), so none would be stopped early; lower pruner.first, or set "
                "pruner.name=none."
            ]
        )
    if pruner.name in ("halving", "hyperband"):
        return rungs(first, pruner.eta, steps.total)
    every = _in_steps(pruner.every, steps) if pruner.every else first
    judged = range(first, steps.total, every)
    if len(judged) > MOST_RUNGS:
        raise ConfigError([f"trials would be judged {len(judged)} times, and saved each time; raise pruner.every."])
    return (*judged, steps.total)


def _in_steps(duration: str, steps: Plan) -> int:
    return Duration.parse(duration).steps(steps_per_epoch=steps.steps_per_epoch, tokens_per_step=steps.tokens_per_step)
