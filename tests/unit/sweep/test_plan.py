"""How far trials train and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_samples import World, make_world

from ftcluster.config.compose import compose
from ftcluster.config.schema import PrunerConfig, RunConfig, SweepConfig
from ftcluster.data.prepared.batches import Efficiency
from ftcluster.data.prepared.report import EpochSummary, Report
from ftcluster.errors import ConfigError, ModelError
from ftcluster.sweep.plan import SweepPlan, make_plan
from ftcluster.training.session import Plan


def plan(trials: int = 8, rungs: tuple[int, ...] = (10, 20, 40), eta: int = 2) -> SweepPlan:
    spec = SweepConfig(name="s", pruner=PrunerConfig("halving", "10 steps", eta))
    steps = Plan(rungs[-1], 5, 5, 20, 100.0, Efficiency(0.5, None))
    report = Report(0, 0, 0, 0, 512, {}, (), (), (), {}, {}, EpochSummary(0, 0))
    return SweepPlan("s", spec, RunConfig(), {}, trials, rungs, steps, "hash", report)


def test_a_trial_of_another_length_is_judged_at_the_same_share_of_it() -> None:
    assert [plan().until(rung, 40) for rung in range(3)] == [10, 20, 40]
    assert [plan().until(rung, 10) for rung in range(3)] == [3, 5, 10]


def test_the_most_steps_are_those_of_trials_that_survive() -> None:
    assert plan().steps_at_most == 8 * 10 + 4 * 10 + 2 * 20


def test_names_of_trials_sort_by_number() -> None:
    assert [plan().trial_name(number) for number in (0, 7)] == ["s-00", "s-07"]
    assert [plan(trials=101).trial_name(number) for number in (0, 100)] == ["s-000", "s-100"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def test_a_pruner_that_could_never_stop_a_trial_is_refused(world: World, tmp_path: Path) -> None:
    base = compose(world.words("optim.duration=20 steps", f"home={tmp_path}"))
    spec = SweepConfig(name="s", space={"adapter.rank": "choice(2,4)"}, pruner=PrunerConfig("halving", "20 steps"))
    with pytest.raises(ConfigError, match=r"pruner\.first=20 steps is step 20 and trials end at step 20"):
        make_plan(spec, base)


def test_every_adapter_target_of_a_space_must_be_in_the_model(world: World, tmp_path: Path) -> None:
    base = compose(world.words(f"home={tmp_path}"))
    spec = SweepConfig(name="s", space={"adapter.targets": "choice([q_proj],[q_proj,w_proj])"})
    with pytest.raises(ModelError, match="has no linear layer called w_proj"):
        make_plan(spec, base)
