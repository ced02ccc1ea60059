"""The paired bootstrap against hand-worked cases and against scipy's."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ftcluster.contracts.evidence import TestRecord
from ftcluster.errors import DataError
from ftcluster.evaluation.bootstrap import loss_difference, match_difference, paired_difference


def record(subject: str, losses: list[float], weights: list[float], answers: list[str] | None = None) -> TestRecord:
    rows = len(losses)
    answers = answers or []
    return TestRecord(
        subject=subject,
        data="d" * 32,
        losses=tuple(losses),
        weights=tuple(weights),
        prompts=tuple(f"question {i}" for i in range(rows)),
        references=tuple("yes" for _ in range(rows)),
        answers=tuple(answers),
        finished=tuple(True for _ in answers),
    )


def test_two_rows_give_the_three_differences_that_can_be_drawn_by_hand() -> None:
    # Drawing (row 0 twice, one of each, row 1 twice) has odds 1:2:1 and gives -1, (-2+4)/4 and 2.
    found = paired_difference([0.0, 6.0], [2.0, 2.0], [2.0, 2.0], lower_is_better=True)
    assert found.estimate == pytest.approx(0.5)
    assert (found.low, found.high) == (-1.0, 2.0)
    assert found.verdict == "not distinguishable"


def test_the_estimate_weighs_rows_by_their_tokens() -> None:
    # 3 nats fewer over 1 + 9 tokens: -0.3 per token, not the -1.5 that averaging the rows would give.
    found = loss_difference(record("new", [1.0, 9.0], [1.0, 9.0]), record("base", [4.0, 9.0], [1.0, 9.0]))
    assert found.estimate == pytest.approx(-0.3)


def test_intervals_agree_with_scipys_paired_percentile_bootstrap() -> None:
    draw = np.random.default_rng(5)
    weights = draw.integers(1, 40, 200).astype(float)
    base = weights * draw.gamma(4.0, 0.5, 200)
    tuned = base - weights * draw.normal(0.1, 0.6, 200)
    ours = paired_difference(list(tuned), list(base), list(weights), lower_is_better=True, seed=1)
    theirs = stats.bootstrap(
        (tuned, base, weights),
        lambda a, b, w, axis: (a.sum(axis) - b.sum(axis)) / w.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)


def test_a_clear_gain_is_better_and_the_other_way_round_worse() -> None:
    good, bad = record("good", [1.0] * 20, [2.0] * 20), record("bad", [3.0] * 20, [2.0] * 20)
    assert loss_difference(good, bad).verdict == "better"
    assert loss_difference(bad, good).verdict == "worse"


def test_more_right_answers_are_better_although_higher() -> None:
    losses, weights = [1.0] * 20, [1.0] * 20
    right = record("right", losses, weights, [" yes\n"] * 20)
    wrong = record("wrong", losses, weights, ["no"] * 20)
    found = match_difference(right, wrong)
    assert found is not None
    assert (found.estimate, found.verdict) == (1.0, "better")


def test_a_model_is_not_distinguishable_from_itself() -> None:
    same = record("same", [1.0, 2.0, 3.0] * 10, [1.0] * 30)
    assert loss_difference(same, same).verdict == "not distinguishable"


def test_five_unanimous_rows_are_too_few_and_six_are_enough() -> None:
    def verdict(rows: int) -> str:
        return loss_difference(record("a", [1.0] * rows, [1.0] * rows), record("b", [2.0] * rows, [1.0] * rows)).verdict

    assert (verdict(5), verdict(6)) == ("not distinguishable", "better")


def test_a_model_that_diverged_is_not_called_better() -> None:
    broken, fine = record("broken", [float("nan")] * 9, [1.0] * 9), record("fine", [1.0] * 9, [1.0] * 9)
    assert loss_difference(broken, fine).verdict == "not distinguishable"


def test_the_same_seed_gives_the_same_interval_and_another_one_a_close_one() -> None:
    draw = np.random.default_rng(0)
    a, b = list(draw.normal(size=100)), list(draw.normal(size=100))
    ones = [1.0] * 100
    first, again, other = (paired_difference(a, b, ones, lower_is_better=True, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first.low != other.low
    assert first.low == pytest.approx(other.low, abs=0.05)


def test_plain_text_has_no_difference_of_answers() -> None:
    plain = record("plain", [1.0] * 9, [1.0] * 9)
    assert match_difference(plain, plain) is None


def test_records_of_different_data_are_refused_naming_both() -> None:
    one = record("one", [1.0] * 9, [1.0] * 9)
    other = replace(one, subject="two", data="e" * 32)
    with pytest.raises(DataError, match=r"(?s)one and two were not tested on the same rows.*dddd.*eeee"):
        loss_difference(one, other)


def test_records_with_different_limits_are_refused() -> None:
    short, long = record("short", [1.0] * 5, [1.0] * 5), record("long", [1.0] * 9, [1.0] * 9)
    with pytest.raises(DataError, match=r"5 rows.*9 rows"):
        match_difference(short, long)


def test_ten_thousand_resamples_of_500_rows_take_less_than_half_a_second_of_cpu() -> None:
    values = list(np.random.default_rng(0).normal(size=500))
    begun = time.process_time()
    paired_difference(values, values[::-1], [1.0] * 500, lower_is_better=True)
    assert time.process_time() - begun < 0.5
