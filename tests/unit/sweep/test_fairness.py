"""Shares of a cluster, worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.sweep.fairness import TURN, Claim, allotments, fair_shares


def claim(wants: float, *, priority: float = 1, size: float = 1, holds: float = 0, starved: float = 0) -> Claim:
    return Claim("GPU", priority, size, holds, wants, starved)


@pytest.mark.parametrize(
    ("wants", "shares"),
    [
        ((8, 8), (4, 4)),
        ((2, 8), (2, 6)),  # who wants less than its share leaves the rest to the other
        ((8, 8, 8, 1), (7 / 3, 7 / 3, 7 / 3, 1)),
        ((3, 2), (3, 2)),
        ((0, 8), (0, 8)),
    ],
)
def test_what_one_does_not_want_is_shared_by_the_others(wants: tuple[float, ...], shares: tuple[float, ...]) -> None:
    claims = {str(number): claim(each) for number, each in enumerate(wants)}
    found = fair_shares(8, claims)
    assert [found[name] for name in claims] == pytest.approx(shares)


def test_priority_is_a_weight() -> None:
    assert fair_shares(9, {"a": claim(9, priority=2), "b": claim(9)}) == {"a": 6, "b": 3}
    # b wants less than its third: a gets the rest
    assert fair_shares(9, {"a": claim(9, priority=2), "b": claim(2)}) == {"a": 7, "b": 2}


def test_hosts_are_whole_and_what_is_left_over_is_used() -> None:
    assert allotments(3, {"a": claim(3), "b": claim(3)}) == {"a": 2, "b": 1}
    assert allotments(8, {"a": claim(8, size=4), "b": claim(8, size=3)}) == {"a": 4, "b": 3}
    # b's share of 4 is one host of 3; the GPU that is left fits a
    assert allotments(8, {"a": claim(8), "b": claim(6, size=3)}) == {"a": 5, "b": 3}


def test_one_whose_host_is_larger_than_its_share_has_its_turn_after_a_while() -> None:
    patient = {"large": claim(4, size=4, starved=TURN), "small": claim(4, holds=4)}
    assert allotments(4, patient) == {"large": 0, "small": 4}
    hungry = {"large": claim(4, size=4, starved=TURN + 1), "small": claim(4, holds=4)}
    assert allotments(4, hungry) == {"large": 4, "small": 0}
    both = {"large": claim(4, size=4, starved=TURN + 1), "small": claim(4, starved=TURN + 2)}
    assert allotments(4, both) == {"large": 0, "small": 4}


claims = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(
        lambda priority, size, hosts, starved: Claim("GPU", priority, size, 0, hosts * size, starved),
        st.sampled_from([0.5, 1.0, 2.0, 10.0]),
        st.sampled_from([0.25, 1.0, 2.0, 8.0]),
        st.integers(0, 20),
        st.sampled_from([0.0, 2 * TURN]),
    ),
    min_size=1,
)


@given(capacity=st.integers(0, 64), claims=claims)
def test_never_more_than_there_is_or_is_wanted_and_nothing_useful_lies_idle(
    capacity: int, claims: dict[str, Claim]
) -> None:
    granted = allotments(capacity, claims)
    left = capacity - sum(granted.values())
    assert left > -1e-3
    for name, each in claims.items():
        assert 0 <= granted[name] <= each.wants + 1e-3
        assert granted[name] % each.size == pytest.approx(0)
        assert granted[name] + each.size > each.wants + 1e-3 or each.size > left - 1e-3
