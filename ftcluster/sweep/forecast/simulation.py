"""A sweep played through without training anything: its own rules and the arithmetic of places, over made-up results.

    entrants      what each trial needs of a host, and how long its stretches take there
    rules         ``judging.judge``: who goes on is decided as in the sweep itself
    places        ``cluster.placement``: hosts start where they fit, and make room for others, as in ``hosts``

Trials that share a host share its time. Nothing fails, no host is lost, and nobody else uses the nodes. Cost: 10,000
trials on 500 hosts take a few seconds.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ftcluster.cluster.placement import NodeRoom, place, together
from ftcluster.sweep.hosts import AHEAD, IDLE, Shape
from ftcluster.sweep.judging import Verdict
from ftcluster.sweep.timeline import Span

_DECISIONS = 200  # in a sweep, at most about so many: of thousands of trials each takes milliseconds


@dataclass(frozen=True)
class Entrant:
    """A trial that is played; ``seconds(rung, beside)``: of a stretch up to a rung with so many trials on its host."""

    name: str
    shape: Shape
    seconds: Callable[[int, int], float]


@dataclass(frozen=True)
class HostTime:
    """When a host was there; seconds since the sweep began."""

    shape: Shape
    up: float
    ended: float
    busy: float  # seconds with a trial on it


@dataclass(frozen=True)
class Played:
    """How it went."""

    spans: tuple[Span, ...]
    hosts: tuple[HostTime, ...]
    seconds: float
    most: int  # hosts at once

    @property
    def utilisation(self) -> float:
        """As a report counts it: of the most hosts at once, from the first trial to the last."""
        if not self.spans:
            return 0.0
        window = max(span.ended for span in self.spans) - min(span.started for span in self.spans)
        return sum(host.busy for host in self.hosts) / max(window * self.most, 1e-9)

    @property
    def host_hours(self) -> float:
        """As a report counts them: of each host from its first trial to its last."""
        spans: dict[str, list[Span]] = {}
        for span in self.spans:
            spans.setdefault(span.host, []).append(span)
        return sum(max(s.ended for s in mine) - min(s.started for s in mine) for mine in spans.values()) / 3600

    @property
    def first_report(self) -> float:
        return min((span.ended for span in self.spans), default=math.nan)

    def held(self, until: float = math.inf) -> list[tuple[Shape, float]]:
        """Seconds that each host was up, up to a moment: what it is paid for."""
        return [(host.shape, max(0.0, min(host.ended, until) - host.up)) for host in self.hosts]


@dataclass
class _Stretch:
    """A trial on a host; ``left`` is the share of its stretch that is still to be done."""

    number: int
    rung: int
    started: float
    waited: float
    left: float = 1.0


@dataclass(eq=False)
class _Host:
    """``seen``: the moment up to which the shares of its stretches are worked out."""

    name: str
    shape: Shape
    nodes: tuple[str, ...]
    comes: float
    up: bool = False
    stretches: list[_Stretch] = field(default_factory=list)
    seen: float = 0.0
    idle_since: float = 0.0
    busy: float = 0.0
    version: int = 0  # of what runs here: older events mean nothing

    @property
    def free(self) -> bool:
        return self.up and len(self.stretches) < self.shape.places

    @property
    def idle(self) -> bool:
        return self.up and not self.stretches


class Simulation:
    """One run of it. ``most`` trials run at a time; a host of a shape takes ``start_up`` seconds to come up."""

    def __init__(
        self,
        entrants: Sequence[Entrant],
        decide: Callable[[Mapping[int, Mapping[int, float]]], Verdict],
        value: Callable[[int, int], float],
        nodes: Sequence[NodeRoom],
        *,
        start_up: Mapping[Shape, float],
        most: int,
    ) -> None:
        """``value(trial, rung)`` is what a trial reports."""
        self._entrants, self._decide, self._value = entrants, decide, value
        self._nodes, self._start_up, self._most = list(nodes), start_up, most
        self._left = {node.id: node for node in nodes}
        self._shapes = sorted(dict.fromkeys(e.shape for e in entrants), key=lambda s: -s.resources.ranks)
        self._now = 0.0
        self._hosts: list[_Host] = []
        self._events: list[tuple[float, int, _Host, int]] = []
        self._count = 0  # of events, which orders those at the same moment
        self._named = 0
        self._values: dict[int, dict[int, float]] = {}
        self._news = 0  # reports since the last decision
        self._due: list[tuple[int, int]] = []  # (-rung, number) of trials that may run and do not, in order
        self._since: dict[int, float] = {}
        self._sent: dict[int, int] = {}  # the rung that a trial was last sent to
        self._next = 0  # the number of the next trial that is proposed
        self._full: set[Shape] = set()  # no node has room for another host of it
        self._spans: list[Span] = []
        self._past: list[HostTime] = []
        self._running = 0  # trials on hosts
        self._at_once = 0  # hosts

    def play(self) -> Played:
        """From the first host to the end of the last trial."""
        self._act()
        while self._events:
            self._now = self._events[0][0]
            while self._events and self._events[0][0] <= self._now:
                _, _, host, version = heapq.heappop(self._events)
                if version == host.version:
                    self._happen(host)
            self._act()
        for host in list(self._hosts):
            self._end(host, self._now)
        return Played(tuple(self._spans), tuple(self._past), self._now, self._at_once)

    # Time ----------------------------------------------------------------------------------------------------------

    def _happen(self, host: _Host) -> None:
        """A host comes up, or a stretch on it ends."""
        if not host.up:
            host.up, host.seen, host.idle_since = True, self._now, self._now
            return
        self._settle(host)
        least = min(stretch.left for stretch in host.stretches)
        for stretch in [each for each in host.stretches if each.left <= least + 1e-9]:
            host.stretches.remove(stretch)
            self._report(host, stretch)
        if not host.stretches:
            host.idle_since = self._now
        self._schedule(host)

    def _settle(self, host: _Host) -> None:
        """Work out how far its stretches are now."""
        beside = len(host.stretches)
        for stretch in host.stretches:
            stretch.left -= (self._now - host.seen) / self._seconds(stretch, beside)
        host.busy += (self._now - host.seen) * (beside > 0)
        host.seen = self._now

    def _schedule(self, host: _Host) -> None:
        """The next event of a host is the first end of a stretch."""
        host.version += 1
        if host.stretches:
            beside = len(host.stretches)
            left = min(max(stretch.left, 0.0) * self._seconds(stretch, beside) for stretch in host.stretches)
            self._push(host, self._now + left)

    def _seconds(self, stretch: _Stretch, beside: int) -> float:
        return max(self._entrants[stretch.number].seconds(stretch.rung, beside), 1e-9)

    def _push(self, host: _Host, moment: float) -> None:
        self._count += 1
        heapq.heappush(self._events, (moment, self._count, host, host.version))

    def _report(self, host: _Host, stretch: _Stretch) -> None:
        number, rung = stretch.number, stretch.rung
        self._running -= 1
        name, started = self._entrants[number].name, stretch.started
        self._spans.append(Span(name, rung, host.name, host.nodes, stretch.waited, started, self._now, "reported"))
        self._values.setdefault(number, {})[rung] = self._value(number, rung)
        self._news += 1

    # Trials --------------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        """Whatever the driver would do now."""
        if self._news * _DECISIONS >= len(self._entrants) or not (self._due or self._more or self._running):
            self._judge()
        self._let_go()
        self._start()
        self._arrange()

    def _judge(self) -> None:
        """Trials that were promoted may run."""
        if not self._news:
            return
        self._news = 0
        for number, rung in self._decide(self._values).promote:
            if self._sent[number] < rung:
                self._allow(number, rung)

    def _allow(self, number: int, rung: int) -> None:
        self._sent[number] = rung
        self._since[number] = self._now
        bisect.insort(self._due, (-rung, number))

    @property
    def _more(self) -> int:
        """Trials that are still to be proposed."""
        return len(self._entrants) - self._next

    def _start(self) -> None:
        """Put trials on hosts, the most urgent first; where none can start, propose one more."""
        free = [host for host in self._hosts if host.free]
        while free and self._running < self._most:
            host = self._placed(free)
            if host is None:
                crowded = len(self._due) >= max(1, sum(host.up for host in self._hosts))
                if not self._more or crowded or self._held_back:
                    return
                self._allow(self._next, 0)
                self._next += 1
                continue
            self._running += 1
            if not host.free:
                free.remove(host)

    def _placed(self, free: Sequence[_Host]) -> _Host | None:
        """Start the first trial that a host has a place for."""
        without: set[Shape] = set()
        for at, (minus, number) in enumerate(self._due):
            shape = self._entrants[number].shape
            if shape not in without:
                host = min((h for h in free if h.shape == shape), key=lambda h: len(h.stretches), default=None)
                if host is not None:
                    del self._due[at]
                    self._settle(host)
                    waited = self._now - self._since.pop(number)
                    host.stretches.append(_Stretch(number, -minus, self._now, waited))
                    self._schedule(host)
                    return host
                without.add(shape)
            if self._now - self._since[number] > AHEAD or len(without) == len(self._shapes):
                return None
        return None

    @property
    def _held_back(self) -> bool:
        """Whether a trial waits for so long that the places that come free are for it."""
        return any(self._now - self._since[number] > AHEAD for _, number in self._due)

    # Hosts ---------------------------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        """Hosts for trials that wait, and then for those that are still to be proposed."""
        coming = Counter(host.shape for host in self._hosts if not host.up)
        still = self._most - self._running - coming.total()
        placed = {host.shape for host in self._hosts if host.free}
        waiting = Counter(self._entrants[number].shape for _, number in self._due[: self._most])
        each = -(-self._more // len(self._shapes))
        for urgent, wanted in ((True, waiting), (False, dict.fromkeys(self._shapes, each))):
            for shape, count in wanted.items():
                lacking, coming[shape] = count - coming[shape], max(0, coming[shape] - count)
                while shape not in placed and lacking > 0 and still > 0 and self._make_room(shape, urgent=urgent):
                    lacking, still = lacking - 1, still - 1

    def _make_room(self, shape: Shape, *, urgent: bool) -> bool:
        """Start a host if there is room, or would be without idle ones."""
        if shape not in self._full:
            if self._found(shape):
                return True
            self._full.add(shape)
        left, going = dict(self._left), list[_Host]()
        idle = [host for host in self._hosts if host.idle] if urgent else []
        for host in sorted(idle, key=lambda host: host.idle_since):
            going.append(host)
            for node in host.nodes:
                left[node] = left[node].less(host.shape.resources, -1)
            if self._nodes_for(shape, left):
                for each in going:
                    self._end(each, self._now)
                return self._found(shape)
        return False

    def _nodes_for(self, shape: Shape, left: Mapping[str, NodeRoom]) -> tuple[str, ...]:
        resources = shape.resources
        return place(list(left.values()), resources, on_one_node=together(self._nodes, resources))

    def _found(self, shape: Shape) -> bool:
        if not (nodes := self._nodes_for(shape, self._left)):
            return False
        for node in nodes:
            self._left[node] = self._left[node].less(shape.resources, 1)
        host = _Host(f"host {self._named}", shape, nodes, self._now + self._start_up[shape])
        self._named += 1
        self._hosts.append(host)
        self._at_once = max(self._at_once, len(self._hosts))
        self._push(host, host.comes)
        return True

    def _let_go(self) -> None:
        """Hosts that were idle for long are gone since then."""
        wanted = {self._entrants[number].shape for _, number in self._due}
        for host in [host for host in self._hosts if host.idle and host.shape not in wanted]:
            if self._now - host.idle_since > IDLE:
                self._end(host, host.idle_since + IDLE)

    def _end(self, host: _Host, moment: float) -> None:
        self._hosts.remove(host)
        host.version += 1
        for node in host.nodes:
            self._left[node] = self._left[node].less(host.shape.resources, -1)
        self._full.clear()
        self._past.append(HostTime(host.shape, min(host.comes, moment), moment, host.busy))
