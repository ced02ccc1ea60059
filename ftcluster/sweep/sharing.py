"""A sweep among others on one cluster: it tells what it holds and wants, and keeps to its share.

    more hosts than its share  -> those that are idle end; others end with their trials, which are given some time to
                                  come to a rung, and then save and go on later
    fewer                      -> new ones may start

Every driver does so by itself; nobody is in charge, so nothing breaks with any of them.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

from ftcluster.cluster.host import Host
from ftcluster.cluster.notes import Notes
from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.sweep.fairness import Claim, allotments
from ftcluster.sweep.hosts import HostPool, Shape
from ftcluster.sweep.pace import Pace
from ftcluster.units import format_seconds

_EVERY = 1.0  # seconds between exchanges
_SURE = 5  # exchanges that say the same before hosts are given up: what is known of a cluster is a little old


class Sharing:
    """Of one driver, for a sweep whose largest trials have this ``shape``.

    ``yield_after``: seconds that a trial may go on where another sweep's share begins.
    """

    def __init__(
        self,
        cluster: Cluster,
        hosts: HostPool,
        shape: Shape,
        notes: Notes,
        priority: float,
        yield_after: float,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._hosts, self._shape, self._notes = cluster, hosts, shape, notes
        self._priority, self._yield_after = priority, yield_after
        self._tell, self._clock = tell, clock
        self._pace = Pace(clock, every=_EVERY)
        self._capacity: deque[float] = deque(maxlen=_SURE)
        self._over: deque[bool] = deque(maxlen=_SURE)
        self._starved: float | None = None  # since when
        self._going: dict[Host, float] = {}  # hosts that were told to end with their trials: when these are stopped
        self._others: frozenset[str] = frozenset()

    def look(self, trials: int) -> None:
        """Once round; ``trials``: those that run or could run now."""
        if not self._pace.due:
            return
        with self._pace.doing():
            mine = self._claim(trials)
            try:
                told = self._notes.exchange(asdict(mine))
            except TimeoutError:  # nobody gives anything up as long as nobody can be heard
                return
            claims = {key: Claim(**note) for key, note in told.items()}
            self._keep_to(self._share({key: claim for key, claim in claims.items() if claim.kind == mine.kind}))

    def leave(self) -> None:
        """Nothing is claimed any more."""
        with suppress(Exception):  # the cluster may be gone, and then nobody reads it
            self._notes.leave()

    def _claim(self, trials: int) -> Claim:
        resources = self._shape.resources
        size, holds = resources.amount, self._hosts.held
        wants = math.ceil(trials / self._shape.places) * size
        if holds or not wants:
            self._starved = None
        elif self._starved is None:
            self._starved = self._clock()
        starved = 0.0 if self._starved is None else self._clock() - self._starved
        return Claim(resources.kind, self._priority, size, holds, wants, starved)

    def _share(self, claims: dict[str, Claim]) -> float:
        """How much this sweep may hold."""
        held = sum(claim.holds for claim in claims.values())
        self._capacity.append(held + self._cluster.unused(claims[self._notes.key].kind))
        share = math.inf
        if len(claims) > 1:
            share = allotments(max(self._capacity), claims)[self._notes.key]
        if (others := frozenset(claims) - {self._notes.key}) != self._others:
            self._others = others
            names = ", ".join(sorted(others))
            self._tell(f"it shares the cluster with {names}" if others else "it has the cluster for itself again")
        return share

    def _keep_to(self, share: float) -> None:
        self._hosts.limit = share
        self._over.append(self._hosts.too_many)
        now = self._clock()
        if len(self._over) == _SURE and all(self._over):
            for host in self._hosts.shrink():
                self._hosts.note(host, "its place is another sweep's share")
                self._going[host] = now + self._yield_after
                self._tell(
                    "a host is for another sweep now: its trials have "
                    f"{format_seconds(self._yield_after)} to come to a rung, else they save and go on later"
                )
        for host in [host for host, at in self._going.items() if now >= at or host not in self._hosts.hosts]:
            if host in self._hosts.hosts:
                host.stop()
            del self._going[host]
