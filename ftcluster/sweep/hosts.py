"""The hosts of one sweep: started where there is room for trials that wait, idle between trials, let go when useless.

A host has places for one or several trials at a time, all of one shape. What is started follows what is wanted::

    wanted, and a host of that shape is on its way      -> wait for it
    wanted, and there is room on the nodes              -> start one; on nodes that joined late, too
    wanted, and there would be room without idle hosts  -> end those, start one
    idle for a minute and not wanted                    -> end it: others use the cluster too

A host that has not come up is never given a trial. Owns no trials.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from typing import Any

from ftcluster.cluster.host import Arrival, Host, HostLostError
from ftcluster.cluster.placement import NodeRoom, Resources, Where, left_over, place, together, without
from ftcluster.cluster.ray_cluster import Cluster

IDLE = 60.0  # seconds until a host that nobody wants is let go
AHEAD = 60.0  # seconds that trials behind it may run ahead of one that does not fit yet
_TELLING = 5.0  # seconds that rank 0 has to tell of a rank that left; longer, and it hangs
_ROUNDING = 1e-6
_FAILURES = 3  # of hosts that start, one after another, before the next one is an error


@dataclass(frozen=True)
class Shape:
    """What a trial needs of a host: what its ranks reserve, and with how many others it may share it."""

    resources: Resources
    places: int = 1  # 0: not known yet


@dataclass(frozen=True)
class Wish:
    """A place for a trial: on a host of this shape, not on these nodes, and with companions or without.

    ``base`` is what a host loads for it: other trials there must have the same, and one that has it loaded is better.
    """

    shape: Shape
    avoid: frozenset[str] = frozenset()
    alone: bool = False
    base: str = ""


@dataclass(eq=False)
class _Entry:
    """A host of the pool."""

    host: Host
    shape: Shape
    expected: tuple[str, ...]  # nodes of its ranks, as long as the cluster has not told
    where: Where  # it may be
    up: bool = False
    base: str | None = None  # of its newest trial
    broken_since: float = math.inf  # without one of its ranks
    killed: bool = False  # for that
    taken: int = 0  # places
    shut: bool = False  # takes nobody in: one that is to be alone is there, or it refused beside those that are
    leaving: bool = False  # takes nobody in ever again
    kept: bool = False  # its GPUs must not be used: it sits on them, so that nobody else gets them
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.host.nodes or self.expected

    @property
    def idle(self) -> bool:
        return self.up and not self.taken and not self.leaving

    @property
    def open(self) -> bool:
        """Whether it takes trials in, as long as there are places."""
        return self.up and not self.leaving and not self.shut

    def suits(self, wish: Wish) -> bool:
        """Whether a trial could start here now."""
        free = not self.taken if wish.alone else self.taken < self.shape.places
        free = free and (not self.taken or self.base == wish.base)
        return free and self.open and self.shape == wish.shape and wish.avoid.isdisjoint(self.nodes)


class HostPool:
    """Use as a context manager: all hosts end with it."""

    def __init__(self, cluster: Cluster, factory: Callable[[Resources], Callable[[], Any]], most: int) -> None:
        """For at most ``most`` trials at a time; ``factory`` gives what makes a worker for each rank of a host."""
        self._cluster, self._factory, self._most = cluster, factory, most
        self.tell: Callable[[str], None] = lambda _: None  # what people should know
        self.limit = math.inf  # GPUs, or CPUs where hosts have none, beyond which no more hosts are started
        self._entries: dict[Host, _Entry] = {}
        self._starting: dict[Any, Host] = {}
        self._failures = 0
        self._reasons: dict[Host, str] = {}
        self._places_at_most = 1

    def __enter__(self) -> HostPool:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._entries:
            with suppress(Exception):  # its node, or the whole cluster, may be gone
                host.kill()

    # Places ------------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Places that hosts have."""
        places = sum(entry.shape.places - entry.taken for entry in self._entries.values() if entry.open)
        return max(0, min(self._most - self._running, places))

    @property
    def hosts(self) -> list[Host]:
        """All that trials may be on."""
        return [entry.host for entry in self._entries.values() if entry.up and not entry.kept]

    @property
    def held(self) -> float:
        """GPUs, or CPUs where hosts have none, of all hosts that have found a place."""
        return sum(entry.shape.resources.amount for entry in self._entries.values() if entry.host.nodes)

    @property
    def _reserved(self) -> float:
        """Likewise of all that do not end soon, also of those that wait for a place."""
        return sum(entry.shape.resources.amount for entry in self._entries.values() if not entry.leaving)

    @property
    def _running(self) -> int:
        return sum(entry.taken for entry in self._entries.values())

    def take(self, wish: Wish) -> Host | None:
        """A place on the host with the fewest trials, if there is one; of equals one with its base, or with none yet.

        Nodes to be avoided are used where no other could ever do.
        """
        return next(self.places(wish), None)

    def places(self, wish: Wish) -> Iterator[Host]:
        """``take``, again and again, for many trials alike; others may take places, and give some back, meanwhile."""
        wish = self._possible(wish)
        fitting = [
            ((entry.taken, entry.base not in (wish.base, None), entry.base is None), order, entry)
            for order, entry in enumerate(self._entries.values())
            if entry.suits(wish)
        ]
        heapify(fitting)
        while fitting and self._running < self._most:
            rank, order, entry = heappop(fitting)
            if not entry.suits(wish):
                continue
            if rank[0] == entry.taken:
                entry.taken += 1
                entry.shut = wish.alone
                entry.base = wish.base
                yield entry.host
            heappush(fitting, ((entry.taken, False, False), order, entry))

    def give_back(self, host: Host) -> None:
        """A trial on this host has ended."""
        if (entry := self._entries.get(host)) is None:  # lost before
            return
        entry.taken -= 1
        entry.shut = False
        entry.idle_since = time.monotonic()
        if entry.leaving and not entry.taken and not entry.kept:
            self._end(entry)

    def refused(self, host: Host) -> None:
        """This host did not take a trial in: it gets none until one of its trials has ended."""
        self.give_back(host)
        if (entry := self._entries.get(host)) and entry.taken:
            entry.shut = True

    # Hosts -------------------------------------------------------------------------------------------------------

    def arrange(self, wishes: Sequence[Wish], more: Sequence[Shape] = ()) -> None:
        """Work towards places for trials that wait, most urgent first, and then for ``more`` that may come."""
        for entry in [entry for entry in self._entries.values() if not entry.host.nodes]:
            if not self._may_find_a_place(entry):
                self._end(entry)
        coming = Counter(entry.shape for entry in self._entries.values() if not entry.up)
        still = self._most - self._running - coming.total()  # hosts that could be of use
        urgent = [(self._possible(wish), True) for wish in wishes]
        served: dict[Wish, bool] = {}
        full: set[tuple[Wish, bool]] = set()
        for wish, release in [*urgent, *((Wish(shape), False) for shape in more)][: self._most]:
            if still <= 0 and not coming.total():
                break  # nothing more can be of use; there may be thousands
            if wish not in served:
                served[wish] = any(entry.suits(wish) for entry in self._entries.values())
            if served[wish]:
                continue
            if coming[wish.shape] > 0:
                coming[wish.shape] -= 1
            elif still > 0 and (wish, release) not in full:
                if self._make_room(wish, release=release):
                    still -= 1
                    served.clear()  # idle ones may have ended
                else:
                    full.add((wish, release))
        self._let_go({wish.shape for wish in wishes})

    def begin(self, resources: Resources, places_at_most: int) -> None:
        """Start hosts of this size before it is known how many trials they take; ``settle`` tells."""
        self._places_at_most = places_at_most
        self.arrange((), [Shape(resources, places=0)] * self._most)

    def settle(self, shape: Shape) -> None:
        """Hosts that were begun with these resources are of this shape."""
        for entry in self._entries.values():
            if entry.shape == Shape(shape.resources, places=0):
                entry.shape = shape

    def can_ever(self, wish: Wish) -> bool:
        """Whether a host for it fits on the nodes that there are."""
        nodes = self._cluster.suitable(wish.shape.resources)
        kept = [entry for entry in self._entries.values() if entry.kept]
        return bool(self._place(self._left(nodes, kept), wish.shape.resources, nodes))

    def wait(self, jobs: list[Any], timeout: float) -> list[Any]:
        """Those of ``jobs`` that ended within ``timeout`` seconds; hosts that came up meanwhile have places.

        Raises:
            HostLostError: hosts die while they start, again and again: nothing could ever run.
        """
        for entry in list(self._entries.values()):
            if entry.up and not entry.killed and (problem := entry.host.broken):
                self._broken(entry, problem)
        ended = self._cluster.wait([*jobs, *self._starting], timeout)
        came_up = [handle for handle in ended if handle in self._starting]
        done = [handle for handle in ended if handle not in self._starting]
        for handle in came_up:
            self._came_up(handle, self._starting.pop(handle))
        return done

    def _broken(self, entry: _Entry, problem: str) -> None:
        """Without one of its ranks a host is of no use, but rank 0 may know why, and tell it as its trials' outcome."""
        entry.leaving, entry.broken_since = True, min(entry.broken_since, time.monotonic())
        if not entry.taken:
            self._end(entry)
        elif time.monotonic() - entry.broken_since > _TELLING:
            self.note(entry.host, problem)
            entry.killed = True
            with suppress(Exception):  # its node is gone, which its jobs tell of, too
                entry.host.kill()  # it would wait for ever; its jobs tell now that it is lost

    def lost(self, host: Host) -> frozenset[str]:
        """This host is gone, and what it reserved must not linger; the nodes it was on.

        Each of its trials tells of the loss; the first one counts.
        """
        if (entry := self._entries.get(host)) is None:
            return frozenset()
        self._end(entry)
        return frozenset(entry.nodes)

    def note(self, host: Host, reason: str) -> None:
        """Remember why this host ends before its trials do."""
        self._reasons.setdefault(host, reason)

    def reason(self, host: Host) -> str:
        """What was noted; empty: nothing."""
        return self._reasons.get(host, "")

    def retire(self, host: Host, *, keep: bool = False) -> bool:
        """Take nobody in any more, and end with its last trial; False where that is known already.

        ``keep``: it holds what must not be used by others, until the pool ends.
        """
        entry = self._entries.get(host)
        if entry is None or entry.leaving:
            return False
        entry.leaving, entry.kept = True, keep
        if not entry.taken and not keep:
            self._end(entry)
        return True

    @property
    def too_many(self) -> bool:
        """Whether hosts reserve more than the limit, those apart that end with their trials."""
        return self._reserved > self.limit + _ROUNDING

    def shrink(self) -> list[Host]:
        """Come back to the limit: hosts that nobody uses end now, others with their trials; the latter are returned."""
        used = []
        for entry in sorted(self._entries.values(), key=lambda entry: (entry.up, entry.taken)):
            if self.too_many and not entry.leaving:
                used += [entry.host] if entry.taken else []
                self.retire(entry.host)
        return used

    def _possible(self, wish: Wish) -> Wish:
        """The wish without nodes to avoid, where the others could never do."""
        if not wish.avoid:
            return wish
        resources = wish.shape.resources
        others = without(self._cluster.suitable(resources), wish.avoid)
        return wish if self._place(others, resources, others) else replace(wish, avoid=frozenset())

    def _make_room(self, wish: Wish, *, release: bool) -> bool:
        """Start a host if there is room, or would be without idle ones."""
        resources = wish.shape.resources
        if not self._allowed(resources, release=release):
            return False
        nodes = without(self._cluster.suitable(resources), wish.avoid)
        entries = list(self._entries.values())
        if not (found := self._place(self._left(nodes, entries), resources, nodes)):
            if not release:
                return False
            idle = sorted((e for e in entries if e.idle), key=lambda entry: entry.idle_since)
            # As few as will do: those that make no difference stay.
            going = list(idle)
            for entry in idle:
                others = [e for e in going if e is not entry]
                if self._place(self._left(nodes, [e for e in entries if e not in others]), resources, nodes):
                    going = others
            found = self._place(self._left(nodes, [e for e in entries if e not in going]), resources, nodes)
            if not found:
                return False
            for entry in going:
                self._end(entry)
        self._start(wish, found)
        return True

    def _may_find_a_place(self, entry: _Entry) -> bool:
        """Whether a host that waits for one could ever be on the nodes that are left of those it may be on."""
        where, resources = entry.where, entry.shape.resources
        nodes = without(self._cluster.suitable(resources), where.excluded)
        among = [node for node in nodes if where.among is None or node.id in where.among]
        return bool(place(among, resources, on_one_node=where.on_one_node))

    def _allowed(self, resources: Resources, *, release: bool) -> bool:
        """Whether the limit allows one more host, without idle ones if need be."""
        over = self._reserved + resources.amount - self.limit - _ROUNDING
        idle = sorted((e for e in self._entries.values() if e.idle and release), key=lambda entry: entry.idle_since)
        if over > sum(entry.shape.resources.amount for entry in idle):
            return False
        for entry in idle:
            if over > 0:
                over -= entry.shape.resources.amount
                self._end(entry)
        return True

    def _left(self, nodes: list[NodeRoom], entries: Sequence[_Entry]) -> list[NodeRoom]:
        return left_over(nodes, [(entry.shape.resources, entry.nodes) for entry in entries])

    def _place(self, left: list[NodeRoom], resources: Resources, nodes: list[NodeRoom]) -> tuple[str, ...]:
        return place(left, resources, on_one_node=together(nodes, resources))

    def _start(self, wish: Wish, expected: tuple[str, ...]) -> None:
        resources = wish.shape.resources
        where = self._cluster.where(resources, wish.avoid)
        jobs = wish.shape.places or self._places_at_most
        host = self._cluster.start(resources, self._factory(resources), jobs, where)
        self._entries[host] = _Entry(host, wish.shape, expected, where)
        self._starting[host.arrival()] = host

    def _came_up(self, handle: Any, host: Host) -> None:
        if (entry := self._entries.get(host)) is None:
            return
        try:
            arrival: Arrival = self._cluster.result(handle)
        except HostLostError:
            self._end(entry)
            self._failures += 1
            if self._failures > _FAILURES:
                raise
            return
        self._failures = 0
        entry.up, entry.idle_since = True, time.monotonic()
        if arrival.problems:
            self.tell(f"a host is left out: {'; '.join(arrival.problems)}")
            self.retire(host, keep=True)

    def _let_go(self, wanted: set[Shape]) -> None:
        long_ago = time.monotonic() - IDLE
        for entry in list(self._entries.values()):
            if entry.idle and entry.shape not in wanted and entry.idle_since < long_ago:
                self._end(entry)

    def _end(self, entry: _Entry) -> None:
        del self._entries[entry.host]
        with suppress(Exception):  # it is gone, or on a node that is
            entry.host.kill()
