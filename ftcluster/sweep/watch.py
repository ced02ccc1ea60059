"""Looks after the hosts that trials run on, and has trials leave those in trouble.

    its node leaves the cluster    -> trials save and return; the host ends
    its GPUs must not be used      -> trials save and return; the host stays on them, so that nobody else gets them
    no sign of life for too long   -> what each rank is doing is written down, then the host is killed

What becomes of the trials is the driver's business; the pool of hosts remembers why they came back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ftcluster.cluster.host import Host
from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.sweep.hosts import HostPool
from ftcluster.units import format_seconds

_SLACK, _MORE = 1.25, 5.0  # a host of several ranks finds out by itself which one hangs, a little earlier
_DUMPING = 3.0  # seconds for the ranks to write what they are doing


@dataclass
class Watch:
    """``hang_after`` seconds without a sign of life end a host; 0: never."""

    cluster: Cluster
    hosts: HostPool
    hang_after: float
    tell: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _signs: dict[Host, tuple[int, float]] = field(default_factory=dict)  # the newest, and when it was new
    _hung: dict[Host, float] = field(default_factory=dict)  # when it is killed

    def look(self, working: Mapping[Host, str]) -> None:
        """Once round; ``working`` are the hosts that trials run on, each with a folder of one of them."""
        leaving = self.cluster.leaving()
        for host in self.hosts.hosts:
            if places := leaving.keys() & set(host.nodes):
                left = min(leaving[place] for place in places)
                self._retire(host, f"node {min(places)[:6]} leaves the cluster in {format_seconds(left)}", keep=False)
            elif problems := host.problems:
                self._retire(host, "; ".join(problems), keep=True)
        for host in [host for host in self._signs if host not in working]:
            del self._signs[host]
        for host, folder in working.items():
            self._listen(host, folder)

    def _retire(self, host: Host, reason: str, *, keep: bool) -> None:
        if self.hosts.retire(host, keep=keep):
            self.hosts.note(host, reason)
            self.tell(f"{reason}: its trials save and go on elsewhere")
            host.stop()

    def _listen(self, host: Host, folder: str) -> None:
        now, pulse = self.clock(), host.peek()
        sign = pulse.beats if pulse else -1
        last, since = self._signs.setdefault(host, (sign, now))
        if sign != last:
            self._signs[host] = (sign, now)
            self._hung.pop(host, None)
        elif host in self._hung:
            if now >= self._hung[host]:
                host.kill()
        elif self.hang_after and now - since > self.hang_after * _SLACK + _MORE:
            self.hosts.note(host, f"no sign of life for {format_seconds(now - since)}")
            self._hung[host] = now + _DUMPING
            host.dump(folder)
