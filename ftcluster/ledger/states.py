"""Which state of a run may follow which; the only place that knows.

waiting <-> running <-> paused, from each of them an end; ``interrupted`` is a gap, not an end.
"""

from __future__ import annotations

from ftcluster.contracts.trial import RunState

_ENDS = {RunState.FINISHED, RunState.PRUNED, RunState.FAILED, RunState.KILLED}
_FOLLOWS: dict[RunState, set[RunState]] = {
    # A waiting run may end without having run: its sweep is cancelled, or it does not fit the cluster.
    RunState.WAITING: {RunState.RUNNING, RunState.INTERRUPTED, RunState.PRUNED, RunState.FAILED, RunState.KILLED},
    # It waits again where its host did not take it in beside others.
    RunState.RUNNING: {RunState.WAITING, RunState.PAUSED, RunState.INTERRUPTED} | _ENDS,
    RunState.PAUSED: {RunState.RUNNING, RunState.INTERRUPTED} | _ENDS,
    # Its last report may have arrived before the process vanished, so every end can follow.
    RunState.INTERRUPTED: {RunState.RUNNING, RunState.PAUSED} | _ENDS,
}


def allowed(now: RunState, then: RunState) -> bool:
    """Whether a run may go from one state to another. Staying is always allowed, leaving an end never."""
    return now is then or then in _FOLLOWS.get(now, set())
