"""Who is called slow: one that holds the others up and has no larger share of the work."""

from __future__ import annotations

import pytest

from ftcluster.engine.sharded.pace import Slowest, Stint, slowest

HOSTS = ("a", "b", "c")


def of_ranks(*stints: tuple[float, int], passes: int = 20) -> Slowest | None:
    return slowest(HOSTS[: len(stints)], [[Stint(seconds, tokens)] * passes for seconds, tokens in stints])


def test_a_rank_half_again_as_slow_as_the_others_is_named_with_its_host() -> None:
    found = of_ranks((1.0, 100), (3.1, 100), (1.0, 100))
    assert found is not None
    assert found.slow
    assert found.ratio == pytest.approx(3.1)
    assert str(found) == "rank 1 on b took 3.1 s for its part of a pass where the others took 1 s: they wait for it"


@pytest.mark.parametrize(
    "stints",
    [
        pytest.param([(1.0, 100), (1.4, 100), (1.0, 100)], id="within-the-usual"),
        pytest.param([(1.0, 100), (3.0, 300), (1.0, 100)], id="a-larger-share"),
        pytest.param([(0.001, 100), (0.02, 100), (0.001, 100)], id="milliseconds"),
    ],
)
def test_others_are_not(stints: list[tuple[float, int]]) -> None:
    found = of_ranks(*stints)
    assert found is not None
    assert found.rank == 1
    assert not found.slow


def test_of_two_ranks_the_other_one_is_what_is_usual() -> None:
    found = of_ranks((1.0, 100), (2.0, 100))
    assert found is not None
    assert found.slow


def test_without_passes_in_which_all_have_something_to_do_nobody_is_slow() -> None:
    assert of_ranks((1.0, 100), (0.1, 0)) is None


@pytest.mark.parametrize(("ranks", "passes"), [(1, 20), (2, 4)])
def test_nobody_is_slow_alone_or_after_a_few_passes(ranks: int, passes: int) -> None:
    assert of_ranks(*[(1.0, 100)] * ranks, passes=passes) is None


def test_a_pass_in_which_some_rank_has_nothing_to_do_is_left_out() -> None:
    idle, busy = Stint(0.1, 0), Stint(1.0, 10)
    found = slowest(HOSTS[:2], [[busy] * 10, [idle, busy] * 5])
    assert found is not None
    assert found.ratio == 1.0
