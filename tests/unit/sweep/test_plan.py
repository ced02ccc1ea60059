"""How far trials train and what they are called."""

from __future__ import annotations

from ftcluster.config.schema import PrunerConfig, RunConfig, SweepConfig
from ftcluster.sweep.plan import SweepPlan
from ftcluster.training.session import Plan


def plan(trials: int = 8, rungs: tuple[int, ...] = (10, 20, 40), eta: int = 2) -> SweepPlan:
    spec = SweepConfig(name="s", pruner=PrunerConfig("halving", "10 steps", eta))
    return SweepPlan("s", spec, RunConfig(), {}, trials, rungs, Plan(rungs[-1], 5, 5, 20, 100.0), "hash")


def test_a_trial_of_another_length_is_judged_at_the_same_share_of_it() -> None:
    assert [plan().until(rung, 40) for rung in range(3)] == [10, 20, 40]
    assert [plan().until(rung, 10) for rung in range(3)] == [3, 5, 10]


def test_the_most_steps_are_those_of_trials_that_survive() -> None:
    assert plan().steps_at_most == 8 * 10 + 4 * 10 + 2 * 20


def test_names_of_trials_sort_by_number() -> None:
    assert [plan().trial_name(number) for number in (0, 7)] == ["s-00", "s-07"]
    assert [plan(trials=101).trial_name(number) for number in (0, 100)] == ["s-000", "s-100"]
