"""Trials of one setting over several seeds: means, intervals, differences."""

from __future__ import annotations

from typing import Any

import pytest
from comparison_samples import contender
from scipy import stats

from ftcluster.comparison.findings import Comparison, Contender, ranked
from ftcluster.contracts.trial import RunState
from ftcluster.report.settings import difference, settings


def trial(number: int, rank: int, seed: int, score: float | None, **changes: Any) -> Contender:
    from dataclasses import replace

    parameters = {"adapter.rank": rank, "seed": seed}
    fields = {"parameters": parameters, "config": dict(parameters), "step": 400, **changes}
    return replace(contender(number, RunState.FINISHED, score), **fields)


def comparison(*trials: Contender, direction: str = "minimize") -> Comparison:
    return Comparison("made", "made", "eval/loss", direction, tuple(ranked(list(trials), direction)), None)


def test_trials_that_differ_in_their_seed_alone_are_one_setting_with_an_interval() -> None:
    (found,) = settings(comparison(trial(0, 4, 1, 1.0), trial(1, 4, 2, 2.0), trial(2, 4, 3, 3.0)))
    assert found.mean == 2.0
    # t(0.975, 2) = 4.3027, s / sqrt(3) = 0.57735
    assert found.low == pytest.approx(2 - 4.30265 * 0.57735, abs=1e-4)
    assert found.high == pytest.approx(2 + 4.30265 * 0.57735, abs=1e-4)
    assert found.parameters == {"adapter.rank": 4}


def test_a_single_value_has_no_interval() -> None:
    (found,) = settings(comparison(trial(0, 4, 1, 1.0)))
    assert (found.mean, found.low, found.high) == (1.0, None, None)


@pytest.mark.parametrize(("direction", "best"), [("minimize", 8), ("maximize", 4)])
def test_settings_are_ranked_by_their_means(direction: str, best: int) -> None:
    trials = [trial(0, 4, 1, 0.5), trial(1, 4, 2, 3.0), trial(2, 8, 1, 1.0), trial(3, 8, 2, 1.2)]
    assert settings(comparison(*trials, direction=direction))[0].parameters["adapter.rank"] == best


def test_only_seeds_that_got_equally_far_are_taken_together() -> None:
    short = trial(1, 4, 2, 9.0, state=RunState.PRUNED, step=100)
    (found,) = settings(comparison(trial(0, 4, 1, 1.0), short))
    assert found.mean == 1.0
    assert [each.name for each in found.judged] == ["demo-000"]
    assert len(found.trials) == 2


def test_those_stopped_early_and_those_unmeasured_stand_behind_those_that_finished() -> None:
    trials = [trial(0, 2, 1, None), trial(1, 4, 1, 0.1, state=RunState.PRUNED), trial(2, 8, 1, 5.0)]
    assert [found.parameters["adapter.rank"] for found in settings(comparison(*trials))] == [8, 4, 2]
    assert settings(comparison(trial(0, 2, 1, float("nan"))))[0].mean is None


def test_settings_with_the_same_seeds_are_compared_seed_by_seed() -> None:
    one = [trial(n, 4, n, value) for n, value in enumerate((1.0, 2.0, 3.0))]
    other = [trial(n + 3, 8, n, value) for n, value in enumerate((1.2, 2.1, 3.3))]
    first, second = settings(comparison(*one, *other))
    found = difference(first, second)
    assert found is not None
    expected = stats.ttest_rel((1.0, 2.0, 3.0), (1.2, 2.1, 3.3)).confidence_interval()
    assert found == pytest.approx((-0.2, expected.low, expected.high))


def test_settings_with_other_seeds_are_compared_by_welchs_interval() -> None:
    one = [trial(n, 4, n, value) for n, value in enumerate((1.0, 2.0, 3.0))]
    other = [trial(n + 3, 8, n + 50, value) for n, value in enumerate((4.0, 6.5))]
    first, second = settings(comparison(*one, *other))
    expected = stats.ttest_ind((1.0, 2.0, 3.0), (4.0, 6.5), equal_var=False).confidence_interval()
    assert difference(first, second) == pytest.approx((-3.25, expected.low, expected.high))


def test_a_single_value_cannot_be_told_from_anything() -> None:
    first, second = settings(comparison(trial(0, 4, 1, 1.0), trial(1, 8, 1, 2.0)))
    assert difference(first, second) is None
