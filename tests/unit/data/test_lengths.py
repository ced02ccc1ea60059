"""A row that is too long is dropped, cut or split as asked, and its answer never goes in silence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.data.prepared.documents import Document
from ftcluster.data.prepared.lengths import RULES, Fitted, fit, trains


def _document(flags: str) -> Document:
    """A token per letter: p is a prompt's, a is trained."""
    return Document(np.arange(len(flags), dtype=np.int32), np.array([letter == "a" for letter in flags], np.bool_))


def _shown(fitted: Fitted) -> list[tuple[list[int], str]]:
    return [
        (document.tokens.tolist(), "".join("a" if on else "p" for on in document.trained))
        for document in fitted.documents
    ]


def _fit(flags: str, rule: str, max_length: int, *, answers: bool = True) -> Fitted:
    return fit(_document(flags), rule, max_length, answers=answers)


@pytest.mark.parametrize("rule", RULES)
def test_a_row_of_exactly_the_largest_length_stays_as_it_is(rule: str) -> None:
    fitted = _fit("ppaa", rule, 4)
    assert _shown(fitted) == [([0, 1, 2, 3], "ppaa")]
    assert (fitted.dropped, fitted.cuts) == ("", ())


def test_drop_leaves_the_row_out() -> None:
    fitted = _fit("pppaa", "drop", 4)
    assert (fitted.documents, fitted.dropped) == ((), "longer than 4 tokens (data.max_length)")


def test_truncate_left_takes_the_oldest_tokens_and_keeps_the_answer_whole() -> None:
    fitted = _fit("ppppaa", "truncate_left", 4)
    assert _shown(fitted) == [([2, 3, 4, 5], "ppaa")]
    assert fitted.cuts == ("oldest tokens cut off to 4 (data.too_long=truncate_left)",)


def test_truncate_left_keeps_a_token_before_the_answer_so_that_its_first_is_learnt() -> None:
    assert _shown(_fit("pppaaa", "truncate_left", 4)) == [([2, 3, 4, 5], "paaa")]
    dropped = _fit("ppaaaa", "truncate_left", 4)
    assert (dropped.documents, dropped.dropped) == ((), "its answer alone is longer than 4 tokens (data.max_length)")


def test_truncate_left_counts_the_last_answer_as_the_answer() -> None:
    assert _shown(_fit("paaappaa", "truncate_left", 5)) == [([3, 4, 5, 6, 7], "appaa")]


def test_truncate_left_of_text_without_answers_keeps_its_end() -> None:
    assert _shown(_fit("aaaaaa", "truncate_left", 4, answers=False)) == [([2, 3, 4, 5], "aaaa")]


def test_truncate_right_takes_the_end_and_says_that_it_was_the_answer() -> None:
    fitted = _fit("ppaaaa", "truncate_right", 4)
    assert _shown(fitted) == [([0, 1, 2, 3], "ppaa")]
    assert fitted.cuts == ("answer cut off at 4 tokens (data.too_long=truncate_right)",)


def test_truncate_right_drops_a_row_of_which_nothing_trained_is_left() -> None:
    fitted = _fit("ppppaa", "truncate_right", 4)
    assert (fitted.documents, fitted.dropped) == ((), "no trained token within 4 tokens (data.max_length)")


def test_the_drawing_of_split_windows() -> None:
    fitted = _fit("ppppaaa", "split", 4)
    assert _shown(fitted) == [([3, 4, 5, 6], "paaa")]
    assert fitted.cuts == (
        "split into windows of 4 tokens (data.too_long=split)",
        "windows without a trained token left out (data.too_long=split)",
    )


def test_a_row_that_loses_several_windows_is_one_row_of_the_report() -> None:
    assert len(_fit("p" * 20 + "aaa", "split", 4).cuts) == 2


def test_split_windows_share_a_token_that_is_trained_once() -> None:
    assert _shown(_fit("paaaaaa", "split", 4)) == [([0, 1, 2, 3], "paaa"), ([3, 4, 5, 6], "paaa")]


def test_split_drops_a_row_of_which_no_window_trains() -> None:
    assert _fit("aPPPPP".lower(), "split", 3).dropped == (
        "no trained token in any window of 3 tokens (data.too_long=split)"
    )


flags = st.text("pa", min_size=1, max_size=60).filter(lambda text: "a" in text)


@given(flags, st.sampled_from(RULES), st.integers(2, 20), st.booleans())
def test_whatever_comes_out_fits_trains_something_and_is_part_of_the_row(
    text: str, rule: str, max_length: int, answers: bool
) -> None:
    fitted = _fit(text, rule, max_length, answers=answers)
    whole = _document(text)
    assert bool(fitted.documents) is not bool(fitted.dropped)
    assert bool(fitted.cuts) is (bool(fitted.documents) and len(text) > max_length)
    for document in fitted.documents:
        start = int(document.tokens[0])
        assert len(document.tokens) <= max_length
        assert document.tokens.tolist() == list(range(start, start + len(document.tokens)))
        same = document.trained == whole.trained[start : start + len(document.tokens)]
        assert same[1:].all()
        assert trains(document) or len(text) <= max_length


@given(flags, st.integers(2, 20))
def test_split_trains_every_target_exactly_once(text: str, max_length: int) -> None:
    fitted = _fit(text, "split", max_length)
    targets = [int(t) for d in fitted.documents for t in d.tokens[1:][d.trained[1:]]]
    assert sorted(targets) == [index for index, letter in enumerate(text) if letter == "a" and index > 0] or (
        fitted.dropped and not targets
    )


@given(flags, st.integers(2, 20))
def test_truncate_left_keeps_the_last_answer_whole_or_drops_the_row(text: str, max_length: int) -> None:
    text = text.rstrip("p")  # a document ends with its answer
    fitted = _fit(text, "truncate_left", max_length)
    answer = len(text) - len(text.rstrip("a"))
    if len(text) > max_length:
        assert bool(fitted.documents) is (answer < max_length)
    if fitted.documents:
        assert fitted.documents[0].trained[-answer:].all()
        assert fitted.documents[0].tokens[-1] == len(text) - 1
