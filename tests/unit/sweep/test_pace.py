"""How often something is done, on a clock made of numbers."""

from __future__ import annotations

from ftcluster.sweep.pace import Pace


class Clock:
    """A time that only moves by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_something_is_due_again_after_its_period() -> None:
    clock = Clock()
    pace = Pace(clock, every=2)
    assert pace.due
    with pace.doing():
        clock.now = 0.5
    clock.now = 1.9
    assert not pace.due
    clock.now = 2.0
    assert pace.due


def test_what_takes_long_is_done_the_more_rarely() -> None:
    clock = Clock()
    pace = Pace(clock, share=0.2)
    with pace.doing():
        clock.now = 1.0
    clock.now = 4.9  # one second is a fifth of five
    assert not pace.due
    clock.now = 5.0
    assert pace.due


def test_what_takes_no_time_is_due_at_once() -> None:
    pace = Pace(Clock(), share=0.2)
    with pace.doing():
        pass
    assert pace.due
