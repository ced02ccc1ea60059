"""Which evidence lets a run pass, and what a refusal says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.trial import RunState
from ftcluster.registry.gates import GateResult, finished, intact, measured, refusals

ROWS = 40


def record(
    subject: str, *, loss: float, right: float = 0.0, ended: float = 1.0, rows: int = ROWS, data: str = "d" * 64
) -> TestRecord:
    """A subject with a loss around ``loss`` on every row and a share of answers right and ended."""
    answers = tuple("yes" if i < right * rows else f"no {i}" for i in range(rows))
    return TestRecord(
        subject=subject,
        data=data,
        losses=tuple(10 * loss + 0.1 * (i % 5) for i in range(rows)),
        weights=(10.0,) * rows,
        prompts=("?",) * rows,
        references=("yes",) * rows,
        answers=answers,
        finished=tuple(i < ended * rows for i in range(rows)),
    )


def without_answers(subject: TestRecord) -> TestRecord:
    return replace(subject, prompts=(), references=(), answers=(), finished=())


BASE = record("base", loss=3.0)


def gate(name: str, results: list[GateResult]) -> GateResult:
    return next(result for result in results if result.name == name)


def test_a_run_with_lower_loss_and_more_right_answers_passes_every_gate() -> None:
    results = measured(record("run", loss=1.0, right=0.8), BASE, None)
    assert [(r.name, r.passed) for r in results] == [
        ("tested", True),
        ("beats base", True),
        ("holds champion", True),
        ("answers finish", True),
    ]


@pytest.mark.parametrize("state", [s for s in RunState if s is not RunState.FINISHED])
def test_only_a_finished_run_passes_and_no_reason_overrules_that(state: RunState) -> None:
    result = finished(state)
    assert not result.passed
    assert result.detail == f"the run is {state.value}"
    assert refusals([result], forced=True) == [result]
    assert finished(RunState.FINISHED).passed


def test_a_changed_adapter_fails_and_no_reason_overrules_that() -> None:
    result = intact("", "the file's sha256 is aaaa, recorded was bbbb")
    assert (result.passed, result.detail) == (False, "the file's sha256 is aaaa, recorded was bbbb")
    assert refusals([result], forced=True) == [result]
    assert "0123456789ab" in intact("0123456789abcdef").detail


def test_an_empty_test_split_fails_and_names_the_setting() -> None:
    empty = TestRecord("run", "d" * 64, (), (), (), (), (), ())
    (result,) = measured(empty, empty, None)
    assert (result.name, result.passed) == ("tested", False)
    assert "data.test_fraction" in result.detail


def test_a_base_tested_on_other_rows_is_no_evidence() -> None:
    (result,) = measured(record("run", loss=1.0), record("base", loss=3.0, data="e" * 64), None)
    assert result == GateResult("tested", False, "the base was tested on other rows")


def test_a_run_no_different_from_the_base_fails() -> None:
    result = gate("beats base", measured(replace(BASE, subject="run"), BASE, None))
    assert not result.passed
    assert "not distinguishable" in result.detail


def test_a_run_worse_than_the_base_fails_with_the_interval() -> None:
    result = gate("beats base", measured(record("run", loss=3.5), BASE, None))
    assert not result.passed
    assert result.detail.startswith("loss +0.5000 [+0.5000, +0.5000], worse")


def test_lower_loss_bought_with_fewer_right_answers_fails() -> None:
    base = record("base", loss=3.0, right=0.9)
    result = gate("beats base", measured(record("run", loss=1.0, right=0.1), base, None))
    assert not result.passed
    assert "exact match -0.8000" in result.detail


def test_too_few_test_rows_prove_nothing() -> None:
    result = gate("beats base", measured(record("run", loss=1.0, rows=4), record("base", loss=3.0, rows=4), None))
    assert not result.passed
    assert "fewer than 6 test rows prove nothing" in result.detail


def test_text_without_answers_is_judged_by_loss_alone() -> None:
    results = measured(without_answers(record("run", loss=1.0)), without_answers(BASE), None)
    assert all(result.passed for result in results)
    assert "exact match" not in gate("beats base", results).detail
    assert gate("answers finish", results).detail == "not asked: the data has no prompts"


def test_a_run_worse_than_the_champion_fails_although_it_beats_the_base() -> None:
    results = measured(record("run", loss=2.0, right=0.5), BASE, record("old", loss=1.0, right=0.5))
    assert gate("beats base", results).passed
    assert not gate("holds champion", results).passed
    assert "worse" in gate("holds champion", results).detail


def test_fewer_right_answers_than_the_champion_fail_although_the_loss_is_lower() -> None:
    results = measured(record("run", loss=1.0, right=0.2), BASE, record("old", loss=2.0, right=0.9))
    assert not gate("holds champion", results).passed


def test_a_tie_with_the_champion_passes() -> None:
    candidate = record("run", loss=1.0, right=0.5)
    result = gate("holds champion", measured(candidate, BASE, replace(candidate, subject="old")))
    assert result.passed
    assert "not distinguishable" in result.detail


def test_a_champion_tested_on_other_data_is_not_compared_and_the_detail_says_so() -> None:
    results = measured(record("run", loss=1.0), BASE, record("old", loss=0.5, data="e" * 64))
    assert gate("holds champion", results).passed
    assert "not compared: the champion was tested on other rows" in gate("holds champion", results).detail


@pytest.mark.parametrize(("share", "passes"), [(1.0, True), (0.9, True), (0.875, False), (0.0, False)])
def test_at_least_nine_of_ten_answers_must_end_by_themselves(share: float, passes: bool) -> None:
    result = gate("answers finish", measured(record("run", loss=1.0, ended=share), BASE, None))
    assert result.passed is passes
    assert result.detail == f"{int(share * ROWS)} of {ROWS} answers end by themselves"


def test_a_reason_overrules_what_was_measured_and_nothing_else() -> None:
    soft, hard = GateResult("beats base", False, ""), GateResult("finished", False, "", binding=True)
    assert refusals([soft, hard], forced=False) == [soft, hard]
    assert refusals([soft, hard], forced=True) == [hard]
