"""The hosts of one sweep: started together, idle once they have found a place, replaced when they are lost.

A host that the cluster has no room for yet is never given a trial; it joins when it comes up. Owns no trials.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ftcluster.cluster.ray_cluster import Cluster, Host, HostLostError, Resources


class HostPool:
    """Use as a context manager: all hosts end with it.

    Raises:
        UsageError: a host is larger than every node of the cluster.
    """

    def __init__(self, cluster: Cluster, resources: Resources, most: int, factory: Callable[[], Any]) -> None:
        self._cluster = cluster
        self._resources = resources
        self._factory = factory
        self._starting: dict[Any, Host] = {}
        self._hosts: list[Host] = []
        self._failures = 0
        self.idle: list[Host] = []
        for _ in range(min(cluster.room(resources), most)):
            self._start()

    def __enter__(self) -> HostPool:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts:
            host.kill()

    def _start(self) -> None:
        host = self._cluster.start(len(self._hosts), self._resources, self._factory)
        self._hosts.append(host)
        self._starting[host.placed()] = host

    def wait(self, jobs: list[Any], timeout: float) -> list[Any]:
        """Those of ``jobs`` that ended within ``timeout`` seconds; hosts that came up meanwhile become idle.

        Raises:
            HostLostError: hosts die while they start, again and again: nothing could ever run.
        """
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
                self.idle.append(host)
        return [handle for handle in ended if handle in jobs]

    def replace(self, host: Host) -> None:
        """Start another host in the place of one that is lost, whose reservation must not linger."""
        self._hosts.remove(host)
        with suppress(Exception):  # it is gone, or on a node that is
            host.kill()
        self._start()
