"""What a sweep makes of lost hosts: how often a trial may lose its own, and whom it is put together with afterwards.

A trial whose host was lost while others were on it goes on alone: one of them may be the cause, and only a loss that it
was alone with counts against it. Once it has come to the end of its stretch, or to a newer checkpoint before it lost
another host, it is like any other. Where a whole node went, nobody on it is suspected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from ftcluster.cluster.host import Host

RETRIES = 2  # of a stretch whose host was lost, from one checkpoint


class Losses:
    """Of one driver."""

    def __init__(self) -> None:
        self._alone: Counter[str] = Counter()  # hosts lost under a trial that was alone there
        self._together: set[Host] = set()  # hosts lost under several
        self._suspects: set[str] = set()  # trials that were on them
        self._avoid: dict[str, frozenset[str]] = {}  # nodes that a trial's last host was lost on
        self._from: dict[str, int] = {}  # the newest checkpoint of a trial when it lost its last host

    def lost(
        self, trial: str, host: Host, nodes: frozenset[str], checkpoint: int, *, shared: bool, there: Collection[str]
    ) -> bool:
        """A trial lost its host, on these nodes and beside others or not; whether it may go on.

        ``checkpoint``: the step of its newest one, -1 without any. ``there``: the nodes that the cluster still has.
        """
        if checkpoint > self._from.get(trial, -1):
            self.came_further(trial)
        self._from[trial] = checkpoint
        self._avoid[trial] = nodes
        if shared and nodes <= set(there):
            self._together.add(host)
        if host in self._together:  # also for the last one to tell of it
            self._suspects.add(trial)
        else:
            self._alone[trial] += 1
        return self._alone[trial] <= RETRIES

    def came_further(self, trial: str) -> None:
        """It is not what hosts are lost by."""
        self._alone.pop(trial, None)
        self._suspects.discard(trial)

    def suspects(self, trial: str) -> bool:
        """Whether it has to be alone on a host."""
        return trial in self._suspects

    def avoids(self, trial: str) -> frozenset[str]:
        """The nodes it is not to go to."""
        return self._avoid.get(trial, frozenset())
