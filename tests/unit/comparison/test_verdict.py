"""What a comparison says in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from comparison_samples import contender, sample

from ftcluster.comparison.findings import Comparison
from ftcluster.comparison.verdict import percent, sentences


def said(comparison: Comparison) -> str:
    return " ".join(sentences(comparison)).replace("\u00a0", " ")


def test_the_first_sentence_names_the_winner_and_what_it_won_by() -> None:
    assert sentences(sample())[0] == "demo-004 ranks first of 8 runs by eval/loss on the validation rows (0.2)."


def test_the_second_gives_the_test_result_against_the_base_with_intervals() -> None:
    text = said(sample())
    assert "On 60 test prompts it answers 85 % exactly right, the base model 3 %" in text
    assert "better than base by exact match (+81.7 points, 95 % interval +71.7 to +91.7)" in text
    assert "better by loss (-1.1" in text


def test_a_difference_that_may_be_chance_is_called_not_distinguishable() -> None:
    assert "demo-002 is not distinguishable from demo-004 by exact match but worse by loss" in said(sample())


def test_a_real_difference_is_called_worse() -> None:
    assert "demo-005 is worse than demo-004 by exact match and by loss" in said(sample())


def test_without_answers_it_speaks_of_loss_alone() -> None:
    text = said(sample(answers=False))
    assert "On 60 test rows its loss is" in text
    assert "better than base by loss" in text
    assert "exact" not in text


def test_runs_that_were_not_tested_are_not_judged() -> None:
    comparison = sample()
    untested = replace(comparison, contenders=tuple(replace(c, record=None) for c in comparison.contenders))
    assert said(untested).endswith("It was not measured on the test rows.")


def test_nothing_is_ranked_before_anything_was_validated() -> None:
    comparison = replace(sample(), contenders=(contender(0), contender(1)))
    assert said(comparison) == "None of 2 runs has a validation result yet, so there is nothing to rank."


def test_runs_of_several_bases_are_compared_without_one() -> None:
    comparison = sample()
    baseless = tuple(replace(c, against_base=None) for c in comparison.contenders)
    assert "exactly right. On the same" in said(replace(comparison, base=None, contenders=baseless))


@pytest.mark.parametrize(
    ("share", "text"), [(0.734, "73 %"), (0.997, "99.7 %"), (0.004, "0.4 %"), (0.0, "0 %"), (1.0, "100 %")]
)
def test_almost_all_is_never_rounded_to_all_nor_almost_none_to_none(share: float, text: str) -> None:
    assert percent(share).replace("\u00a0", " ") == text
