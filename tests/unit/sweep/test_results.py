"""Several objectives and several seeds: what is best then, and what is said of it."""

from __future__ import annotations

import math
from typing import Any

from ftcluster.config.schema import SweepConfig
from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.ledger.ranking import best_trial
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.objectives import front, measured
from ftcluster.sweep.results import best_in_words, front_in_words

TWO = SweepConfig(also={"trial/tokens_per_s": "maximize"})


def trial(
    number: int, loss: float, speed: float = 0.0, state: RunState = RunState.FINISHED, **overrides: Any
) -> RunRow:
    metrics = {"eval/loss": loss, "trial/tokens_per_s": speed}
    return RunRow(f"s-{number:02}", "trial", "", {}, overrides, number=number, state=state, metrics=metrics)


def test_the_front_holds_what_nothing_else_beats_in_all_objectives() -> None:
    trials = [
        trial(0, 1.0, 10.0),
        trial(1, 0.5, 5.0),
        trial(2, 0.6, 4.0),
        trial(3, 0.5, 5.0),
        trial(4, 0.1, math.nan),
        trial(5, 0.2, 9.0, RunState.FAILED),
        trial(6, 0.4, 1.0, rank=8),
    ]
    assert [(row.name, values) for row, values in front(trials, TWO)] == [
        ("s-06", (0.4, 1.0)),
        ("s-01", (0.5, 5.0)),
        ("s-03", (0.5, 5.0)),
        ("s-00", (1.0, 10.0)),
    ]
    assert front_in_words(trials, TWO)[:2] == [
        "not beaten in eval/loss and trial/tokens_per_s at once: 4 of 7 trials",
        "  s-06  eval/loss 0.4  trial/tokens_per_s 1  rank=8",
    ]
    assert front_in_words(trials, SweepConfig()) == []


def test_the_speed_of_a_trial_is_measured_where_a_sweep_weighs_it() -> None:
    report = TrialReport("s-00", 10, {"eval/loss": 1.0}, tokens=600, seconds=3.0)
    found = measured(TWO, report, trial(0, 1.0))
    assert isinstance(found, TrialReport)
    assert found.metrics == {"eval/loss": 1.0, "trial/tokens_per_s": 200.0}
    assert measured(SweepConfig(), report, trial(0, 1.0)) is report
    said = measured(SweepConfig(metric="eval/exact_match"), report, trial(0, 1.0))
    assert said == "it reported no eval/exact_match, only eval/loss"


def test_of_points_with_several_seeds_the_mean_counts_and_the_first_trial_stands_for_them() -> None:
    trials = [
        trial(0, 0.1, lr=1, seed=17),
        trial(1, 0.9, lr=1, seed=18),
        trial(2, 0.4, lr=2, seed=17),
        trial(3, 0.2, lr=2, seed=18),
        trial(4, 0.0, lr=3, seed=17),
        trial(5, 0.0, state=RunState.FAILED, lr=3, seed=18),
    ]
    best = best_trial(trials, "eval/loss", "minimize", 2)
    assert best is not None
    assert best.name == "s-02"
    said = best_in_words(best, trials, SweepConfig(repeats=2))
    assert said == "eval/loss 0.3000 +- 0.1414 over 2 seeds, lr=2"
    assert best_in_words(trials[0], trials, SweepConfig()) == "eval/loss 0.1000, lr=1  seed=17"
