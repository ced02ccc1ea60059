"""The hosts of one sweep: started together, idle once they have found a place, replaced when they are lost.

A host has places for one or several trials at a time. One that the cluster has no room for yet is never given a
trial; it joins when it comes up. Owns no trials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ftcluster.cluster.ray_cluster import Cluster, Host, HostLostError, Resources


class HostPool:
    """Use as a context manager: all hosts end with it.

    Raises:
        UsageError: a host is larger than every node of the cluster.
    """

    def __init__(
        self, cluster: Cluster, resources: Resources, most: int, factory: Callable[[], Any], places: int = 1
    ) -> None:
        """As many hosts as fit, for at most ``most`` trials at a time, ``places`` on each."""
        self._cluster = cluster
        self._resources = resources
        self._factory = factory
        self._places, self._most = places, most
        self._starting: dict[Any, Host] = {}
        self._hosts: list[Host] = []
        self._failures = 0
        self._taken: Counter[Host] = Counter()
        self._closed: set[Host] = set()  # those with a trial that is to be alone
        self._full: set[Host] = set()  # those that took no further trial in beside theirs
        self._up: list[Host] = []
        for _ in range(min(cluster.room(resources), most)):
            self._start()

    def __enter__(self) -> HostPool:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts:
            host.kill()

    def _start(self) -> None:
        host = self._cluster.start(self._resources, self._factory, self._places)
        self._hosts.append(host)
        self._starting[host.placed()] = host

    @property
    def idle(self) -> bool:
        """Whether a trial could start now."""
        return self.has_place(alone=False)

    @property
    def empty(self) -> bool:
        """Whether some host is up and nothing runs anywhere."""
        return bool(self._up) and not self._taken.total()

    def has_place(self, *, alone: bool) -> bool:
        """Whether a trial could start now, with companions or on a host of its own."""
        return self._freest(alone=alone) is not None

    def take(self, *, alone: bool = False) -> Host:
        """A place on the host with the fewest trials; ``alone``: all places of a host that has none.

        Raises:
            LookupError: there is no such host.
        """
        if (host := self._freest(alone=alone)) is None:
            raise LookupError("no host is free" if alone else "no host has a free place")
        self._taken[host] += 1
        if alone:
            self._closed.add(host)
        return host

    def give_back(self, host: Host) -> None:
        """A trial on this host has ended."""
        if host in self._up:
            self._taken[host] -= 1
            self._closed.discard(host)
            self._full.discard(host)

    def refused(self, host: Host) -> None:
        """This host did not take a trial in: it gets none until one of its trials has ended."""
        self.give_back(host)
        if self._taken[host]:
            self._full.add(host)

    def _freest(self, *, alone: bool = False) -> Host | None:
        if self._taken.total() >= self._most:
            return None
        places = 1 if alone else self._places
        shut = self._closed | self._full
        free = [host for host in self._up if self._taken[host] < places and host not in shut]
        return min(free, key=lambda host: self._taken[host], default=None)

    def wait(self, jobs: list[Any], timeout: float) -> list[Any]:
        """Those of ``jobs`` that ended within ``timeout`` seconds; hosts that came up meanwhile become idle.

        Raises:
            HostLostError: hosts die while they start, again and again: nothing could ever run.
        """
        for host in self._up:
            if host.broken:
                host.kill()  # what runs on it would wait for ever; now its jobs tell that it is lost
        ended = self._cluster.wait([*jobs, *self._starting], timeout)
        for placed in [handle for handle in ended if handle in self._starting]:
            host = self._starting.pop(placed)
            try:
                self._cluster.result(placed)
            except HostLostError:
                self._failures += 1
                if self._failures > 3:
                    raise
                self.replace(host)
            else:
                self._up.append(host)
        return [handle for handle in ended if handle in jobs]

    def replace(self, host: Host) -> None:
        """Start another host in the place of one that is lost, whose reservation must not linger.

        Each of its trials tells of the loss; the first one counts.
        """
        if host not in self._hosts:
            return
        self._hosts.remove(host)
        self._up = [other for other in self._up if other is not host]
        self._taken.pop(host, None)
        self._closed.discard(host)
        self._full.discard(host)
        with suppress(Exception):  # it is gone, or on a node that is
            host.kill()
        self._start()
