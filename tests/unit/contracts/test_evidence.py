"""Test records: what is derived from a model's losses and answers."""

from __future__ import annotations

import math

from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.trial import RunState


def record(**changes: object) -> TestRecord:
    fields: dict[str, object] = {
        "subject": "a",
        "data": "h",
        "losses": (2.0, 4.0),
        "weights": (1.0, 3.0),
        "prompts": ("p", "q"),
        "references": ("yes", "no"),
        "answers": (" yes\n", "maybe"),
        "finished": (True, False),
    }
    return TestRecord(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_loss_is_per_token_not_per_row() -> None:
    assert record().loss == 1.5


def test_answers_match_exactly_after_trimming_outer_white_space_only() -> None:
    assert record().correct == (True, False)
    assert record(answers=("y es", "No")).correct == (False, False)
    assert record().exact_match == 0.5


def test_a_record_without_answers_or_weight_claims_nothing() -> None:
    empty = record(answers=(), weights=(0.0, 0.0))
    assert math.isnan(empty.exact_match)
    assert math.isnan(empty.loss)


def test_answers_to_the_first_rows_only_are_judged_over_those() -> None:
    assert record(answers=("yes",)).exact_match == 1.0


def test_four_states_are_ends_and_an_interrupted_run_is_not_one() -> None:
    assert {state.value for state in RunState if state.ended} == {"finished", "pruned", "failed", "killed"}
