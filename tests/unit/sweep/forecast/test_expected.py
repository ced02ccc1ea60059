"""What a sweep takes by its simulation, worked out by hand."""

from __future__ import annotations

import math

import pytest

from ftcluster.cluster.placement import Resources
from ftcluster.config.schema import BudgetConfig
from ftcluster.sweep.forecast.expected import Expected, error, expect, moment
from ftcluster.sweep.forecast.forecast import made_up, times_within
from ftcluster.sweep.forecast.probe import Timing
from ftcluster.sweep.forecast.simulation import HostTime, Played
from ftcluster.sweep.hosts import Shape
from ftcluster.sweep.timeline import Span

TWO_RANKS = Shape(Resources(1, 1, ranks=2))


def played(seconds: float) -> Played:
    """Two hosts of two GPUs each, up after 100 s; one of them ends when half of the rest is over."""
    half = 100 + (seconds - 100) / 2
    hosts = (HostTime(TWO_RANKS, 100, half, 10), HostTime(TWO_RANKS, 100, seconds, 20))
    return Played((Span("t-0", 0, "host 0", ("a", "a"), 0.0, 100, half, "reported"),), hosts, seconds, 2)


def expected(**budget: float) -> Expected:
    times = [played(seconds) for seconds in (1900, 3700, 7300)]
    return expect(times, BudgetConfig(**budget), 3.0, 20.0, (0.9, 1.1))  # type: ignore[arg-type]


def test_the_middle_one_is_told_and_the_others_make_the_range() -> None:
    found = expected()
    assert (found.seconds, found.low, found.high) == (3720, 1900 * 0.9 + 20, 7300 * 1.1 + 20)
    assert (found.first_report, found.hosts, found.ended_by) == (100 + 1800 + 20, 2, "")
    assert (found.host_hours, found.gpu_hours, found.money) == (1.5, 3.0, 9.0)


def test_a_budget_ends_a_sweep() -> None:
    """Four GPUs spend 2 GPU-hours in half an hour; two more of one host alone take as long for the third."""
    found = expected(gpu_hours=2.5)
    assert found.ended_by == "budget.gpu_hours"
    assert found.seconds == pytest.approx(20 + 100 + 1800 + 900, abs=0.01)
    assert found.gpu_hours == pytest.approx(2.5, abs=1e-4)
    assert found.high == found.seconds
    assert expected(money=6.0).seconds == pytest.approx(20 + 100 + 1800, abs=0.01)
    assert expected(hours=0.5).seconds == pytest.approx(1800, abs=0.01)
    assert expected(hours=2).ended_by == ""


def test_when_as_much_is_spent_as_may_be() -> None:
    assert moment(lambda until: until * 2, 10, 100) == pytest.approx(5, abs=1e-3)
    assert moment(lambda until: until * 2, 200, 100) == math.inf


def test_times_are_as_uncertain_as_hosts_were_different() -> None:
    assert error([Timing((1.0, 1.02))]) == (0.9, 1.1)
    assert error([Timing((1.0, 3.0)), Timing((1.0, 1.1))]) == (0.5, 1.5)


def test_a_stretch_takes_its_steps_and_what_is_around_them() -> None:
    """Four trials make a step each in 3 s together, one alone in 1 s: each further one adds two thirds of a second."""
    timing = Timing((0.5, 1.5), together=3.0, places=4, evaluation=5.0, saving=2.0, opening=4.0)
    assert timing.stretch(10, evaluations=2, saves=1, beside=1) == 10 * 1 + 4 + 2 * 5 + 2
    assert timing.stretch(10, evaluations=2, saves=1, beside=4) == 10 * 3 + 4 * (4 + 2 * 5 + 2)
    assert timing.stretch(10, evaluations=0, saves=0, beside=2) == pytest.approx(10 * (1 + 2 / 3) + 2 * 4)


@pytest.mark.parametrize(("begin", "end", "every", "often"), [(0, 60, 40, 2), (60, 80, 40, 1), (0, 80, 40, 2)])
def test_how_often_a_stretch_is_evaluated(begin: int, end: int, every: int, often: int) -> None:
    assert times_within(begin, end, every) == often


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_made_up_values_get_better_and_keep_their_order(direction: str, sign: int) -> None:
    value = made_up(direction, seed=1)
    first, second = [[sign * value(trial, rung) for trial in range(20)] for rung in (0, 1)]
    assert all(after < before for before, after in zip(first, second, strict=True))
    assert sorted(range(20), key=first.__getitem__) == sorted(range(20), key=second.__getitem__)
    assert [value(0, 0)] != [made_up(direction, seed=2)(0, 0)]
