"""Which trials go on: brackets, the median rule, rules of a trial's own, points of several trials."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from ftcluster.config.schema import PrunerConfig, SweepConfig
from ftcluster.sweep.brackets import brackets
from ftcluster.sweep.judging import Verdict, judge, means

NAN = math.nan


def spec(direction: str = "minimize", repeats: int = 1, **pruner: Any) -> SweepConfig:
    return SweepConfig(pruner=PrunerConfig(**pruner), direction=direction, repeats=repeats)


def ends(found: SweepConfig, values: Callable[[int, int], float], count: int, rungs: int, order: random.Random) -> Any:
    """Run trials in any order until nothing goes on: who ended where, how, and why."""
    steps = tuple(range(1, rungs + 1))
    reports: dict[int, dict[int, float]] = {}
    runnable, started = {(trial, 0) for trial in range(count)}, {(trial, 0) for trial in range(count)}
    prune: dict[int, str] = {}
    finished: dict[int, str] = {}
    while runnable:
        trial, rung = order.choice(sorted(runnable))
        runnable.discard((trial, rung))
        reports.setdefault(trial, {})[rung] = values(trial, rung)
        verdict = judge(found, count, steps, reports, set(prune))  # a sweep never goes back to a pruned one
        assert finished.items() <= verdict.finished.items(), "an end was taken back"
        assert not {each for each, _ in verdict.promote} & {*prune, *verdict.prune, *verdict.finished}
        prune |= verdict.prune
        finished |= verdict.finished
        runnable |= verdict.promote - started
        started |= verdict.promote
    assert set(prune) | set(finished) == set(range(count)), "a trial was left waiting for ever"
    return {trial: len(told) for trial, told in reports.items()}, prune, finished


def surface(trial: int, rung: int) -> float:
    return random.Random(trial).random() + random.Random(f"{trial}-{rung}").random() / (rung + 1)


@pytest.mark.parametrize("name", ["none", "halving", "hyperband", "median"])
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("more", [{}, {"patience": 2}, {"threshold": "1.2"}])
def test_what_becomes_of_trials_does_not_depend_on_who_reports_first(
    name: str, repeats: int, more: dict[str, Any]
) -> None:
    found = spec(name=name, repeats=repeats, startup=3, **more)
    results = [ends(found, surface, 12 * repeats, 4, random.Random(order)) for order in range(12)]
    assert all(result == results[0] for result in results)


def test_the_median_rule_is_that_of_trials_that_run_one_after_the_other() -> None:
    there: list[list[float]] = [[], [], []]
    expected = {}
    for trial in range(30):
        for rung in range(4):
            value = surface(trial, rung)
            if rung < 3 and len(there[rung]) >= 4 and value > median(there[rung]):
                expected[trial] = rung + 1
                there[rung].append(value)
                break
            if rung < 3:
                there[rung].append(value)
    lengths, prune, _ = ends(spec(name="median", startup=4), surface, 30, 4, random.Random(1))
    assert {trial: lengths[trial] for trial in prune} == expected
    assert len(expected) > 8
    assert set(prune.values()) == {"worse than the median of the trials before it"}


def test_brackets_have_the_proportions_of_hyperband_at_any_number_of_trials() -> None:
    assert [brackets(49, 4, 3).count(first) for first in range(4)] == [27, 12, 6, 4]
    few, many = brackets(10, 4, 3), brackets(49, 4, 3)
    assert many[:10] == few
    assert set(few) == {0, 1, 2, 3}


def test_a_bracket_that_judges_later_keeps_what_starts_badly() -> None:
    def late(trial: int, rung: int) -> float:
        return -trial if rung == 2 else trial  # the worst at first is the best in the end

    placed = brackets(12, 3, 2)
    lengths, _, finished = ends(spec(name="hyperband", eta=2), late, 12, 3, random.Random(2))
    assert all(lengths[trial] == 3 for trial in range(12) if placed[trial] == 2)
    assert max(finished) > 6
    _, _, halved = ends(spec(name="halving", eta=2), late, 12, 3, random.Random(2))
    assert set(halved) == {0, 1, 2}


def own(values: list[float], **pruner: Any) -> Verdict:
    return judge(spec(**pruner), 1, (1, 2, 3, 4, 5, 6), {0: dict(enumerate(values))}, set())


def test_a_trial_that_is_no_number_ends_at_once() -> None:
    assert own([1.0, NAN], threshold="9").prune == {0: "not a number"}


def test_a_trial_beyond_the_threshold_ends_whatever_the_others_do() -> None:
    assert own([5.0, 6.5], threshold="6").prune == {0: "beyond pruner.threshold=6"}
    assert own([0.2], threshold="0.1", direction="maximize").promote == {(0, 1)}
    assert own([0.05], threshold="0.1", direction="maximize").prune == {0: "beyond pruner.threshold=0.1"}


def test_a_trial_that_gets_no_better_is_done_and_not_pruned() -> None:
    assert own([3.0, 2.0, 2.1, 2.0], patience=2).finished == {0: "no better for 2 judgements"}
    assert own([3.0, 2.0, 2.1, 1.9], patience=2).promote == {(0, 4)}
    assert own([3.0, 2.99, 2.98], patience=2, improvement=0.1).finished == {0: "no better for 2 judgements"}


def test_points_are_judged_by_the_mean_of_their_trials_when_all_have_reported() -> None:
    values = {0: {0: 1.0}, 1: {0: 3.0}, 2: {0: 1.5}, 3: {0: 1.7}, 4: {0: 0.0}}
    assert means(values, 2) == {0: {0: 2.0}, 1: {0: 1.6}}
    verdict = judge(spec(name="halving", repeats=2), 4, (1, 2), values, set())
    assert verdict.promote == {(2, 1), (3, 1)}
    assert set(verdict.prune) == {0, 1}


def test_where_a_trial_of_a_point_failed_the_others_of_it_end() -> None:
    verdict = judge(spec(name="halving", repeats=2), 4, (1, 2), {0: {0: 0.1}, 2: {0: 1.0}, 3: {0: 1.0}}, {1})
    assert verdict.prune == {0: "another trial of this point ended"}
    assert verdict.promote == {(2, 1), (3, 1)}
