"""The driver of a sweep: an event loop between the ledger, the decisions and the hosts.

    a place on a host?  -> a promoted trial, else a new one (study proposes, ledger remembers, host trains)
    a stretch ended?    -> ledger records the report -> halving decides -> trials are promoted, pruned, finished
    a host in trouble?  -> its trials go on elsewhere from what they saved

The ledger is written before anything depends on it, and all decisions are functions of the ledger: a driver
that was killed is replaced by another one, which goes on from what is written. Owns no placement (``cluster``),
no decisions (``halving``, ``study``), no hosts (``hosts``, ``watch``), no training.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftcluster.cluster.host import Host, HostLostError
from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.engine.checkpoint import latest_step
from ftcluster.engine.sharded.ranks import RankLost
from ftcluster.errors import FtclusterError, StoreError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.board import Board
from ftcluster.sweep.control import PAUSE, STOP, Control, control, specification
from ftcluster.sweep.ending import cause, end, end_all, interrupt
from ftcluster.sweep.facts import Facts
from ftcluster.sweep.fork import fork_all
from ftcluster.sweep.hosts import AHEAD, HostPool, Shape, Wish
from ftcluster.sweep.judging import judge
from ftcluster.sweep.losses import RETRIES, Losses
from ftcluster.sweep.objectives import measured
from ftcluster.sweep.pace import Pace
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.proposals import next_trials
from ftcluster.sweep.sharing import Sharing
from ftcluster.sweep.spending import Spending
from ftcluster.sweep.stranded import NO_ROOM, Stranded
from ftcluster.sweep.stretches import Launcher, Stretch
from ftcluster.sweep.timeline import Recorder
from ftcluster.sweep.view import View
from ftcluster.sweep.watch import Watch
from ftcluster.training.fitting import Halved
from ftcluster.training.patience import Patience
from ftcluster.training.worker import Outcome

_TICK = 0.25  # seconds between looks at running trials
_PATIENCE = 60.0  # seconds running trials have to save when everything is put away
_LEDGER = ""
_HOPELESS = 3  # trials that fail for one reason before any has reported: the others would, too
_MOST = 1024  # trials that hosts are made ready for before they are proposed
_SHARE = 0.2  # of its time for decisions, of which each costs more the more trials there are
_REST = 2.0  # times as long as it worked, where several things end one soon after another
_SHOWING = 0.02  # of its time for what people see of all of them


@dataclass
class Driver:
    """Runs one sweep to its end; ``stopping`` makes it put everything away and return early."""

    plan: SweepPlan
    ledger: Ledger
    cluster: Cluster
    hosts: HostPool
    wish: Callable[[RunConfig], Wish]  # what a trial needs of a host
    shapes: Sequence[Shape]  # those that trials of the sweep may have, the largest first
    folder: Path
    tags: Mapping[str, str]
    view: View
    sharing: Sharing | None = None  # with other sweeps on the same cluster
    clock: Callable[[], float] = time.monotonic
    rest: Callable[[float], None] = time.sleep
    stopping: Callable[[], bool] = lambda: False
    _running: list[Stretch] = field(default_factory=list)
    _reports: list[tuple[TrialReport, int]] = field(default_factory=list)  # that are still to be written down
    _losses: Losses = field(default_factory=Losses)
    _told: set[str] = field(default_factory=set)  # trials that people know a host did not take in
    _changed: bool = True  # something ended or was proposed since the last decision
    _exhausted: bool = False
    _broken: FtclusterError | None = None
    _config: Mapping[str, Any] = field(default_factory=dict)  # of the sweep, as it was read last
    _control: Control = field(default_factory=Control)  # what is asked of it
    _enough: str = ""  # why it ends before all is done
    _failures: Counter[str] = field(default_factory=Counter)  # reasons, without the names of the trials
    _promoted: dict[int, int] = field(default_factory=dict)  # trial number -> rung it may train to
    _needs: dict[str, Wish] = field(default_factory=dict)  # of trials, by name
    _since: dict[str, float] = field(default_factory=dict)  # when trials that wait for a host began to
    _failed: dict[str, str] = field(default_factory=dict)  # trials whose end is still to be written down, and why
    _facts: Facts = field(init=False)
    _board: Board = field(init=False)
    _patience: Patience = field(init=False)
    _stranded: Stranded = field(init=False)
    _launcher: Launcher = field(init=False)
    _timeline: Recorder = field(init=False)
    _spending: Spending = field(init=False)
    _watch: Watch = field(init=False)
    _chores: Pace = field(init=False)
    _decisions: Pace = field(init=False)
    _showing: Pace = field(init=False)
    _woke: float = field(init=False)  # when something had ended last
    _several: bool = False  # things, one soon after another

    def run(self) -> str:
        """Returns when every trial has ended, or everything running was saved after ``stopping``.

        What it returns is why the sweep ended before all was done, if it did.

        Raises:
            StoreError: a disk is full or gone for longer than the sweep may wait; what was running was put away.
            UsageError: no node has room for any trial any more; likewise.
        """
        wanted, note = self.plan.base.cluster, self.view.note
        self._facts = Facts(self.ledger, self.plan.name, self.plan.spec.metric)
        before = sum(trial.step for trial in self._facts.trials)
        self._launcher = Launcher(self._facts, self.tags)
        self._board = Board(self.plan, self.view, self.clock, before, self.clock(), self._launcher.totals)
        self._patience = Patience(wanted.storage_patience, note, self.clock)
        self._stranded = Stranded(note, self.clock)
        self._timeline = Recorder(self.folder)
        self._spending = Spending(self.ledger, self.plan.name, note, self.clock)
        self.hosts.tell = note
        self._watch = Watch(self.cluster, self.hosts, wanted.hang_after, note, self.clock)
        self._chores, self._decisions = Pace(self.clock, every=_TICK), Pace(self.clock, share=_SHARE)
        self._showing, self._woke = Pace(self.clock, share=_SHOWING), self.clock()
        while not self.stopping() and not self._broken and not self._enough:
            try:
                if self._chores.due:
                    with self._chores.doing():
                        self._look_around()
                self._decide()
                self._start()
                if self._over():
                    break
                self._collect()
                self._patience.worked(_LEDGER)
            except StoreError as error:  # of the ledger, or of a trial's records; nothing is written by halves
                self._storage_fails(_LEDGER, error)
                self.rest(_TICK)
        self._put_away()
        self._show()
        if self._broken:
            raise self._broken
        return self._enough

    def _look_around(self) -> None:
        """What has to be seen to now and then."""
        self._heed()
        if self.sharing:
            paused = self._control.sweep.state == PAUSE
            self.sharing.look(0 if paused else len(self._running) + len(self._due()) + self._more())
        for name, reason in tuple(self._failed.items()):
            self._fail(self._facts.get(name), reason)
        self._watch.look({stretch.host: stretch.trial.folder for stretch in self._running})
        if self._showing.due:
            with self._showing.doing():
                self._show()

    def _show(self) -> None:
        running = {stretch.trial.name: (stretch.host, stretch.until) for stretch in self._running}
        self._board.show(self._facts.trials, running)

    def _over(self) -> bool:
        """Nothing runs, and nothing is left that could."""
        left = self._running or self._failed or self._reports or self._changed
        return not left and not self._open() and not self._more()

    def _more(self) -> int:
        """Trials that are still to be proposed."""
        return 0 if self._exhausted else self.plan.trials - len(self._facts)

    def _on_host(self, name: str) -> bool:
        return any(stretch.trial.name == name for stretch in self._running)

    # What is asked of it ----------------------------------------------------------------------------------------

    def _heed(self) -> None:
        """Follow what people ask of the sweep and of its trials."""
        row = self.ledger.get(self.plan.name)
        if row.config != self._config:
            self._config, self._control = row.config, control(row)
            self.plan = self._board.plan = self.plan.respecified(specification(row))
            self._exhausted, self._changed = False, True
        asked = self._control.sweep
        self._enough = asked.reason if asked.state == STOP else self._spending.over(self.plan.spec, self.hosts.hosts)
        for stretch in self._running:
            if self._held(stretch.trial.name):
                stretch.host.stop(stretch.trial.folder)
        for name in [name for name, each in self._control.trials.items() if each.state == STOP]:
            trial = self._facts.get(name)
            if not trial.state.ended and not self._on_host(name):
                end(self._facts, trial, RunState.KILLED, self._control.trials[name].reason)
                self._changed = True
        if asked.state == PAUSE and not self._running:
            for host in self.hosts.hosts:  # others may use what they hold
                self.hosts.retire(host)
        if asked.state == PAUSE and row.state is RunState.RUNNING and not self._running:
            self.ledger.set_state(row.name, RunState.PAUSED, reason=asked.reason)
            self.view.note(f"{asked.reason}; ftcluster sweep resume {row.name} goes on")
        elif asked.state != PAUSE and row.state is RunState.PAUSED:
            self.ledger.set_state(row.name, RunState.RUNNING)
            self.view.note("it goes on")

    def _held(self, name: str) -> str:
        """Why a trial must not run now; empty: it may."""
        trial = self._control.trials.get(name)
        return self._control.sweep.reason or (trial.reason if trial else "")

    # Decisions ---------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Write down what is certain by now; idempotent."""
        if not self._changed or not self._decisions.due:
            return
        with self._decisions.doing():
            trials = self._facts.trials
            # A pruned one that a longer sweep would have kept has nothing left to go on from.
            gone = (RunState.FAILED, RunState.KILLED, RunState.PRUNED)
            failed = {t.number for t in trials if t.state in gone}
            count = len(trials) if self._exhausted else self.plan.trials
            verdict = judge(self.plan.spec, count, self.plan.rungs, self._facts.values, failed)
            fork_all(self._facts, self.plan, verdict.forks)
            self._promoted = dict(verdict.promote)
            away = {stretch.trial.name for stretch in self._running}
            here = [trial for trial in self._facts.open if trial.name not in away]
            end_all(self._facts, [(trial, *ended) for trial in here if (ended := verdict.end_of(trial))])
            self._changed = False

    def _fail(self, trial: RunRow, reason: str) -> None:
        """End a trial for good; as soon as this can be written down, whatever was lost with it."""
        self._failed[trial.name] = reason
        end(self._facts, trial, RunState.FAILED, reason)
        del self._failed[trial.name]
        self._changed = True
        self._failures[cause(trial.name, reason)] += 1
        count = self._failures.total() / self.plan.spec.repeats  # the seeds of one bad point say no more than it
        if max(self._failures.values()) == self._failures.total() and count == _HOPELESS and not self._facts.values:
            self._enough = f"the first {_HOPELESS} trials failed alike: {next(iter(self._failures))}"

    # Starting ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start whatever can start, and have hosts made ready for what cannot."""
        if self._patience.resting or self._control.sweep.state == PAUSE:
            return
        due, placed = self._due(), list[tuple[RunRow, Host]]()
        try:
            while self._place(due, placed) and (new := self._proposed(due)):
                due += new
            started, problems = self._launcher.launch(self.plan, placed)
        except StoreError:
            for _, host in placed:
                self.hosts.give_back(host)
            raise
        self._follow(started, problems)
        wishes = [self._wish(trial) for trial in due]
        coming = [self.shapes[i % len(self.shapes)] for i in range(min(self._more(), _MOST))]
        self.hosts.arrange(wishes, coming)
        self._look_for_nodes(wishes or [Wish(shape) for shape in coming])

    def _place(self, due: list[RunRow], placed: list[tuple[RunRow, Host]]) -> bool:
        """Find hosts for trials that may run; False if one has waited so long that the next place is for it."""
        places = dict[Wish, Iterator[Host]]()
        for trial in tuple(due):
            wish = self._wish(trial)
            if host := next(places.setdefault(wish, self.hosts.places(wish)), None):
                due.remove(trial)
                placed.append((trial, host))
                continue
            if self.clock() - self._since.setdefault(trial.name, self.clock()) > AHEAD:
                return False
        return True

    def _proposed(self, due: Sequence[RunRow]) -> list[RunRow]:
        """Trials that are new in the ledger and may run, as many as there are places for."""
        # A suspect waits for a host of its own, which new trials would keep taken.
        if any(self._losses.suspects(trial.name) for trial in due):
            return []
        count = min(self._more(), self.hosts.free, max(1, len(self.hosts.hosts)) - len(due))
        new = list[RunRow]()
        while count > 0 and not new and not self._enough:
            found = next_trials(self.plan, self.folder, self._facts.trials, self._facts.values, count)
            self._facts.add([each.trial for each in found])
            for trial, problem, config in found:
                if problem:  # a point that is no config
                    self._fail(self._facts.get(trial.name), problem)
                else:
                    self._launcher.configs[trial.name] = config
                    new.append(self._facts.get(trial.name))
            if len(found) < count:
                self._exhausted = self._changed = True  # fewer than planned: promotions may be possible now
            count = min(self._more(), count)
        return [trial for trial in new if not self._held(trial.name)]

    def _due(self) -> list[RunRow]:
        """Trials that may run now and do not, most urgent first."""
        return [trial for trial in self._open() if not self._held(trial.name)]

    def _open(self) -> list[RunRow]:
        """Those that may run if nobody holds them.

        A trial may train to its first rung; to a later one only if it was promoted there.
        """
        told = {report.name for report, _ in self._reports}
        away = {stretch.trial.name for stretch in self._running} | self._failed.keys() | told
        waiting = [trial for trial in self._facts.startable(self._promoted) if trial.name not in away]
        reached = {trial.number: len(self._facts.values.get(trial.number, ())) for trial in waiting}
        may = [t for t in waiting if reached[t.number] in (0, self._promoted.get(t.number))]
        return sorted(may, key=lambda trial: (-reached[trial.number], trial.number))

    def _wish(self, trial: RunRow) -> Wish:
        name = trial.name
        if name not in self._needs:
            self._needs[name] = self.wish(self._launcher.config(trial))
        return replace(self._needs[name], avoid=self._losses.avoids(name), alone=self._losses.suspects(name))

    def _look_for_nodes(self, wishes: Sequence[Wish]) -> None:
        """Without any node that could take a trial, wait for one to join; not for ever."""
        possible = self._running or not wishes or any(self.hosts.can_ever(wish) for wish in set(wishes))
        if self._stranded.too_long(stranded=not possible):
            self._broken = NO_ROOM

    def _follow(self, started: Sequence[Stretch], problems: Sequence[tuple[RunRow, Host, str]]) -> None:
        """Keep an eye on trials that were started; those that could not be have failed."""
        for stretch in started:
            stretch.waited = self.clock() - self._since.pop(stretch.trial.name, self.clock())
            self._timeline.begin(stretch.host)
            self._running.append(stretch)
        for trial, host, reason in problems:
            self.hosts.give_back(host)
            self._failed[trial.name] = reason
        for trial, _, reason in problems:
            self._fail(trial, reason)

    # Finishing ---------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        if self._several:  # a turn costs little more for several more of them, so let them gather
            self.rest(min(_TICK, _REST * (self.clock() - self._woke)))
        ended = set(self.hosts.wait([s.job for s in self._running], _TICK))
        self._woke, self._several = self.clock(), len(ended) > 1
        for stretch in [s for s in self._running if s.job in ended]:
            self._running.remove(stretch)
            how = self._take_back(stretch)
            self._timeline.end(stretch.trial.name, stretch.rung, stretch.host, stretch.waited, stretch.started, how)
        if self._reports:
            self._facts.record(self._reports)
            self._reports, self._changed = [], True

    def _take_back(self, stretch: Stretch) -> str:
        """See to a stretch that is over; how it ended, in a word."""
        try:
            outcome: Outcome = self.cluster.result(stretch.job)
            if isinstance(outcome.error, RankLost):  # its host is of no use any more
                raise HostLostError(outcome.error.message) from outcome.error
        except HostLostError as error:
            reason = self.hosts.reason(stretch.host) or error.message
            self._retry(stretch, reason, counts=not isinstance(error.__cause__, Halved))
            return "lost"
        if outcome.refused:
            self.hosts.refused(stretch.host)
            self._wait(stretch, outcome.refused)
            return "refused"
        self.hosts.give_back(stretch.host)
        try:
            self._settle(stretch, outcome, self.hosts.reason(stretch.host))
            self._patience.worked(stretch.trial.name)
        except StoreError as error:  # it goes on from its checkpoint when the disk does
            self._storage_fails(stretch.trial.name, error)
        return "reported" if outcome.report and not outcome.stopped else "stopped" if outcome.stopped else "failed"

    def _wait(self, stretch: Stretch, reason: str) -> None:
        """A host did not take a trial in; it is as it was, and starts when there is room."""
        trial = stretch.trial
        self._facts.set_state(trial.name, trial.state, reason=trial.reason)
        if trial.name not in self._told:
            self._told.add(trial.name)
            self.view.note(f"{trial.name} waits for a host that is less full: {reason}")

    def _settle(self, stretch: Stretch, outcome: Outcome, moved: str) -> None:
        """``moved``: why its host let its trials go."""
        trial = self._facts.get(stretch.trial.name)
        for warning in outcome.warnings:
            self.view.note(f"{trial.name}: {warning}")
        if isinstance(outcome.error, StoreError):  # no fault of the trial's
            self._set_aside(trial, outcome.error.message)
            raise outcome.error
        if outcome.stopped and not self.stopping() and (why := moved or self._held(trial.name)):
            interrupt(self._facts, trial, why)
        elif outcome.error:
            self._fail(trial, str(outcome.error))
        elif outcome.stopped:
            self._set_aside(trial, "stopped by the user")
        else:
            report = measured(self.plan.spec, outcome.report, trial)
            if isinstance(report, str):
                self._fail(trial, report)
            else:
                self._losses.came_further(trial.name)
                self._reports.append((report, stretch.rung))

    def _storage_fails(self, user: str, error: StoreError) -> None:
        if self._patience.failed(user, error):
            self._broken = error

    def _retry(self, stretch: Stretch, reason: str, *, counts: bool) -> None:
        trial, host = self._facts.get(stretch.trial.name), stretch.host
        nodes = self.hosts.lost(host) or frozenset(host.nodes)
        shared = any(other.host is host for other in self._running)
        checkpoint = latest_step(RunFolder(Path(trial.folder)).checkpoints)
        there = self.cluster.there()
        if not counts or self._losses.lost(trial.name, host, nodes, checkpoint, shared=shared, there=there):
            more = "; it goes on from its newest checkpoint on another host" if counts else ""
            self.view.note(f"{trial.name}: {reason}{more}")
            self._facts.set_state(trial.name, RunState.INTERRUPTED, reason=reason)
        else:
            self._fail(trial, f"{reason} ({RETRIES + 1} times)")

    def _set_aside(self, trial: RunRow, reason: str) -> None:
        try:
            interrupt(self._facts, trial, reason)
        except StoreError as error:
            self.view.note(str(error))

    def _put_away(self) -> None:
        """Let running trials save and return, at most for a minute; paused ones are saved already."""
        if not self._running and not self.stopping() and not self._broken and not self._enough:
            return
        for stretch in self._running:
            stretch.host.stop()
        deadline = self.clock() + _PATIENCE
        while self._running and self.clock() < deadline:
            try:
                self._collect()
            except StoreError as error:  # what is on the hosts is saved there; others go on returning
                self.view.note(str(error))
        for stretch in self._running:
            stretch.host.kill()
        for trial in self._facts.trials:
            if self._enough and not self._broken and not trial.state.ended:
                end(self._facts, trial, RunState.KILLED, self._enough)
            elif trial.state in (RunState.RUNNING, RunState.PAUSED):
                self._set_aside(trial, "stopped by the user" if not self._broken else self._broken.message)
