"""Learning rates against values worked out by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.engine.schedule import SHAPES, Schedule


def rates(schedule: Schedule) -> list[float]:
    return [schedule.lr(step) for step in range(schedule.total)]


def test_warm_up_rises_in_equal_steps_and_wastes_none_on_a_rate_of_zero() -> None:
    assert rates(Schedule(0.8, total=6, warmup=3, shape="constant")) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_linear_falls_in_equal_steps() -> None:
    assert rates(Schedule(1.0, total=4, shape="linear")) == [1.0, 0.75, 0.5, 0.25]
    assert rates(Schedule(1.0, total=4, shape="linear", final=0.2)) == pytest.approx([1.0, 0.8, 0.6, 0.4])


def test_cosine_is_half_a_wave() -> None:
    half = math.sqrt(2) / 2
    expected = [1.0, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert rates(Schedule(1.0, total=4, shape="cosine")) == pytest.approx(expected)
    assert rates(Schedule(2.0, total=4, shape="cosine", final=0.5)) == pytest.approx([1 + rate for rate in expected])


def test_warm_up_and_cosine_join_at_the_peak() -> None:
    # 1 warm-up step of 5: 1/2 of the peak, then cosine at 0, 1/4, 1/2, 3/4 of its way.
    schedule = Schedule(4.0, total=5, warmup=1, shape="cosine")
    half = math.sqrt(2) / 2
    assert rates(schedule) == pytest.approx([2.0, 4.0, 2 * (1 + half), 2.0, 2 * (1 - half)])


def test_after_its_last_step_a_schedule_stays_at_its_floor() -> None:
    assert Schedule(1.0, total=4, shape="linear", final=0.1).lr(400) == pytest.approx(0.1)
    assert Schedule(1.0, total=4, shape="cosine").lr(4) == pytest.approx(0.0, abs=1e-15)


def test_a_schedule_that_is_all_warm_up_never_divides_by_zero() -> None:
    assert rates(Schedule(1.0, total=2, warmup=2, shape="cosine")) == pytest.approx([1 / 3, 2 / 3])
    assert Schedule(1.0, total=2, warmup=2, shape="cosine").lr(2) == 1.0


@given(
    st.sampled_from(SHAPES),
    st.integers(1, 200),
    st.floats(0, 0.99),
    st.floats(0, 1),
    st.floats(1e-8, 10),
)
def test_every_rate_is_between_zero_and_the_peak_and_falls_once_warm(
    shape: str, total: int, warmup: float, final: float, peak: float
) -> None:
    schedule = Schedule(peak, total, round(warmup * total), shape, final)  # type: ignore[arg-type]
    found = rates(schedule)
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in found)
    falling = found[schedule.warmup :]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(falling))
