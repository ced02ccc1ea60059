"""Sources are mixed by weight or by count; what is taken depends on the content of rows alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.data.prepared.mixing import Chosen, epoch_of, lowest, shares
from ftcluster.data.prepared.settings import Source
from ftcluster.errors import DataError


def _sources(**fields: list[float]) -> list[Source]:
    count = len(next(iter(fields.values())))
    return [
        Source(f"s{i}", ("f",), **{name: values[i] for name, values in fields.items()})  # type: ignore[arg-type]
        for i in range(count)
    ]


def _keys(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_an_epoch_of_weights_is_as_long_as_all_sources_together() -> None:
    assert shares(_sources(weight=[3, 1]), [4, 4]) == [6, 2]
    assert shares(_sources(weight=[1, 1]), [90, 10]) == [50, 50]


def test_what_rounding_leaves_over_goes_to_the_largest_fractions_first() -> None:
    # 10 documents by 1 : 1 : 1 are 3.33 each, by 1 : 2 : 4 they are 1.43, 2.86 and 5.71
    assert shares(_sources(weight=[1, 1, 1]), [4, 3, 3]) == [4, 3, 3]
    assert shares(_sources(weight=[1, 2, 4]), [4, 3, 3]) == [1, 3, 6]


def test_counts_stand_as_they_are_and_a_source_without_one_is_read_once() -> None:
    assert shares(_sources(count=[5, 0]), [2, 3]) == [5, 3]


def test_the_drawing_of_an_epoch() -> None:
    source_of = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    keys = _keys(40, 10, 30, 20, 7, 5, 8, 6)
    found = epoch_of(_sources(weight=[3, 1]), source_of, keys)
    assert found is not None
    assert found.tolist() == [0, 1, 1, 2, 3, 3, 5, 7]  # all of the first, its lowest keys 10 and 20 again; 5 and 6


def test_one_source_without_weight_and_count_needs_no_epoch_of_its_own() -> None:
    assert epoch_of(_sources(limit=[3]), np.zeros(9, np.int64), _keys(*range(9))) is None


def test_of_equal_keys_the_first_is_taken() -> None:
    assert lowest(_keys(5, 3, 3, 9, 3), 2).tolist() == [1, 2]


def test_a_limit_takes_the_lowest_keys_wherever_they_are_and_no_more_of_equal_ones_than_it_may() -> None:
    chosen = Chosen(_keys(5, 3, 3, 9, 3, 1), 3)
    assert chosen.next(4).tolist() == [False, True, True, False]
    assert chosen.next(2).tolist() == [False, True]
    assert chosen.below == 4


def test_a_weighted_source_without_rows_is_named() -> None:
    with pytest.raises(DataError, match="no training rows are left of this source") as caught:
        shares(_sources(weight=[1, 1]), [5, 0])
    assert caught.value.where == "data.sources.s1"


keys = st.lists(st.integers(0, 30), min_size=1, max_size=40)


@given(keys, st.integers(0, 40), st.integers(0, 40))
def test_a_smaller_subset_is_inside_a_larger_one(values: list[int], one: int, other: int) -> None:
    small, large = (set(lowest(_keys(*values), count).tolist()) for count in sorted((one, other)))
    assert small <= large


@given(keys, keys, st.integers(1, 60), st.integers(1, 60))
def test_rows_added_to_one_source_move_nothing_in_another(
    mine: list[int], others: list[int], count: int, other_count: int
) -> None:
    sources = _sources(count=[count, other_count])

    def of_first(second: list[int]) -> list[int]:
        source_of = np.repeat([0, 1], [len(mine), len(second)])
        found = epoch_of(sources, source_of, _keys(*mine, *second))
        assert found is not None
        return [int(number) for number in found if number < len(mine)]

    assert of_first(others) == of_first(others[:1])
    assert len(of_first(others)) == count


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 100)), min_size=1, max_size=6))
def test_shares_add_up_to_all_rows_and_miss_their_weight_by_less_than_one(parts: list[tuple[int, float]]) -> None:
    available, weights = [rows for rows, _ in parts], [weight for _, weight in parts]
    found = shares(_sources(weight=weights), available)
    assert sum(found) == sum(available)
    exact = [sum(available) * weight / sum(weights) for weight in weights]
    assert all(abs(rows - share) < 1 + 1e-9 for rows, share in zip(found, exact, strict=True))


@given(keys, st.integers(1, 200))
def test_rows_repeat_evenly_where_a_count_is_larger_than_the_source(values: list[int], count: int) -> None:
    found = epoch_of(_sources(count=[count]), np.zeros(len(values), np.int64), _keys(*values))
    assert found is not None
    times = np.bincount(found, minlength=len(values))
    assert times.sum() == count
    assert times.max() - times.min() <= 1
