"""What is refused before the first trial, and how far trials train."""

from __future__ import annotations

import pytest

from ftcluster.config.grammar import parse_space
from ftcluster.config.schema import PrunerConfig, RunConfig, SweepConfig
from ftcluster.errors import ConfigError
from ftcluster.sweep.plan import SweepPlan, check_space
from ftcluster.training.session import Plan


def plan(trials: int = 8, rungs: tuple[int, ...] = (10, 20, 40), eta: int = 2) -> SweepPlan:
    spec = SweepConfig(name="s", pruner=PrunerConfig("halving", "10 steps", eta))
    return SweepPlan("s", spec, RunConfig(), {}, trials, rungs, Plan(rungs[-1], 5, 5, 20, 100.0), "hash")


def test_every_value_of_a_space_is_tried_before_the_first_trial() -> None:
    space = parse_space(
        {
            "optim.rl": "choice(1e-3, 1e-4)",
            "adapter.rank": "choice(4, 8.5, many)",
            "optim.batch_size": "interval(4.0, 16)",
            "seed": "range(1, 4)",
            "optim.lr": "tag(log, interval(1e-5, 1e-2))",
            "adapter.targets": "choice([all-linear], [q_proj, v_proj])",
        }
    )
    with pytest.raises(ConfigError) as caught:
        check_space(space, RunConfig())
    unknown, *wrong = caught.value.problems
    assert unknown == "optim.rl is not a known key. Did you mean optim.lr or optim.clip?"
    assert [problem.split(":")[1] for problem in wrong] == [
        " expected a whole number, got a fraction.",
        " expected a whole number, got text.",
        " expected a whole number, got a fraction.",
    ]
    assert [problem.split("=")[0] for problem in wrong] == ["adapter.rank", "adapter.rank", "optim.batch_size"]
    assert caught.value.where == "space"


def test_a_trial_of_another_length_is_judged_at_the_same_share_of_it() -> None:
    assert [plan().until(rung, 40) for rung in range(3)] == [10, 20, 40]
    assert [plan().until(rung, 10) for rung in range(3)] == [3, 5, 10]


def test_the_most_steps_are_those_of_trials_that_survive() -> None:
    assert plan().steps_at_most == 8 * 10 + 4 * 10 + 2 * 20


def test_names_of_trials_sort_by_number() -> None:
    assert [plan().trial_name(number) for number in (0, 7)] == ["s-00", "s-07"]
    assert [plan(trials=101).trial_name(number) for number in (0, 100)] == ["s-000", "s-100"]
