"""Which state may follow which."""

import itertools

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.states import allowed

ALL = list(RunState)


def test_an_end_is_never_left():
    ends = [state for state in ALL if state.ended]
    assert len(ends) == 4
    assert [(end, then) for end, then in itertools.product(ends, ALL) if allowed(end, then)] == [
        (end, end) for end in ends
    ]


def test_a_run_that_has_not_ended_can_be_stopped_in_any_way_but_does_not_finish_without_running():
    going = [state for state in ALL if not state.ended]
    for state in going:
        assert allowed(state, RunState.KILLED)
        assert allowed(state, RunState.FAILED)
        assert allowed(state, RunState.INTERRUPTED)
        assert allowed(state, RunState.FINISHED) is (state is not RunState.WAITING)


def test_running_pausing_and_an_interruption_lead_back_to_running_but_none_back_to_waiting():
    for state in (RunState.WAITING, RunState.PAUSED, RunState.INTERRUPTED):
        assert allowed(state, RunState.RUNNING)
    assert [state for state in ALL if allowed(state, RunState.WAITING)] == [RunState.WAITING, RunState.RUNNING]
