"""The order of a comparison and how its values read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from comparison_samples import contender, sample

from ftcluster.comparison.findings import flat_config, ranked, score_text, short_names, value_text
from ftcluster.contracts.trial import RunState


def test_finished_runs_stand_before_stopped_ones_however_good_those_look() -> None:
    finished, pruned = contender(1, RunState.FINISHED, 0.9), contender(2, RunState.PRUNED, 0.1)
    assert ranked([pruned, finished], "minimize") == [finished, pruned]


@pytest.mark.parametrize(("direction", "first"), [("minimize", 1), ("maximize", 2)])
def test_the_direction_says_which_score_is_first(direction: str, first: int) -> None:
    order = ranked([contender(1, score=0.2), contender(2, score=0.7)], direction)
    assert order[0].number == first


def test_runs_without_a_score_or_with_nan_come_last_by_number() -> None:
    unknown, broken, known = contender(2), contender(1, score=math.nan), contender(3, score=9.0)
    assert [c.number for c in ranked([unknown, broken, known], "minimize")] == [3, 1, 2]


def test_equal_scores_are_ordered_by_number() -> None:
    assert [c.number for c in ranked([contender(5, score=0.5), contender(4, score=0.5)], "minimize")] == [4, 5]


def test_the_best_is_the_first_by_validation_even_if_another_is_better_on_test_rows() -> None:
    comparison = sample()
    first, second, third, *rest = comparison.contenders
    assert first.record is not None
    swapped = replace(
        comparison, contenders=(replace(first, record=third.record), second, replace(third, record=first.record), *rest)
    )
    assert swapped.best is not None
    assert swapped.best.name == first.name


def test_keys_are_shortened_only_where_that_is_clear() -> None:
    keys = ("optim.lr", "adapter.rank", "search.rank")
    assert short_names(keys) == {"optim.lr": "lr", "adapter.rank": "adapter.rank", "search.rank": "search.rank"}


def test_names_and_homes_are_no_differences_of_config() -> None:
    assert flat_config({"name": "a", "home": "b", "optim": {"lr": 1.0, "name": "c"}}) == {"optim.lr": 1.0}


def test_a_password_in_an_address_reaches_no_report() -> None:
    config = {"tracking": {"uri": "postgresql://me:s3cret@db/x", "log_every": 1}, "evaluation": {"max_new_tokens": 64}}
    assert flat_config(config) == {
        "tracking.uri": "postgresql://***@db/x",
        "tracking.log_every": 1,
        "evaluation.max_new_tokens": 64,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00030000001, "0.0003"), (8, "8"), (True, "true"), (None, "–"), (["q_proj", "v_proj"], "q_proj, v_proj")],
)
def test_values_are_written_for_people(value: object, text: str) -> None:
    assert value_text(value) == text


def test_an_unknown_score_is_a_dash() -> None:
    assert (score_text(None), score_text(0.123456)) == ("–", "0.1235")
