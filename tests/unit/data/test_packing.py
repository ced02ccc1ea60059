"""Every document is in one bin, no bin holds more than its capacity, and packing is near the best there is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.data.prepared.batches import Loader
from ftcluster.data.prepared.documents import Document, Documents
from ftcluster.data.prepared.packing import best_fit, packed_slots, padded_slots
from ftcluster.errors import DataError

packings = st.integers(1, 300).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=120), st.just(capacity))
)


def test_the_drawing_of_best_fit() -> None:
    assert best_fit([6, 5, 3, 2, 1], 8) == [[0, 3], [1, 2], [4]]


def test_the_fullest_bin_that_still_has_room_takes_a_document() -> None:
    # 7 and 6 open bins with 3 and 4 left; 3 goes where nothing is left over, 4 where it alone fits
    assert best_fit([7, 6, 4, 3], 10) == [[0, 3], [1, 2]]


def test_rows_exactly_at_the_limit_have_a_bin_each_and_rows_of_one_token_fill_what_is_left() -> None:
    assert best_fit([8, 8, 7, 1, 1], 8) == [[0], [1], [2, 3], [4]]
    assert best_fit([1] * 9, 3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert best_fit([], 8) == []


@given(packings)
def test_every_document_is_packed_once_and_no_bin_holds_more_than_its_capacity(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    bins = best_fit(lengths, capacity)
    assert sorted(index for group in bins for index in group) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in group) <= capacity for group in bins)


@given(packings)
def test_no_two_bins_in_a_row_would_fit_into_one(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    bins = best_fit(lengths, capacity)
    filled = [sum(lengths[index] for index in group) for group in bins]
    assert all(one + other > capacity for one, other in pairwise(filled))  # else they would share a bin


@given(packings)
def test_equal_lengths_are_packed_equally(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    assert best_fit(lengths, capacity) == best_fit(np.array(lengths, np.int64), capacity)


def test_a_document_that_no_bin_holds_is_refused() -> None:
    with pytest.raises(DataError, match="a document of 9 tokens does not fit into micro-batches of 8") as caught:
        best_fit([3, 9], 8)
    assert caught.value.where == "optim.micro_tokens"
    assert "data.max_length" in caught.value.remedy


def test_slots_are_those_of_bins_and_of_padded_rows() -> None:
    assert packed_slots([6, 5, 3, 2, 1], 8) == 24
    assert padded_slots([6, 5, 3, 2, 1], 2) == 2 * 6 + 2 * 3 + 1


def test_a_loader_says_how_many_of_its_slots_hold_tokens() -> None:
    sizes = [8, 1, 7, 2, 6, 3, 5, 4]
    documents = Documents.of([Document(np.zeros(n, np.int32), np.ones(n, np.bool_)) for n in sizes])
    packed = Loader(documents, 8, 4, seed=0, micro_tokens=9).efficiency()
    assert packed.packed == 1.0
    assert packed.padded == 36 / padded_slots(np.array(sizes)[Loader(documents, 8, 4, seed=0).order(0)], 4)
    assert Loader(documents, 8, 4, seed=0).efficiency().packed is None
