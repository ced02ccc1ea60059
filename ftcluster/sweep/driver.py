"""The driver of a sweep: an event loop between the ledger, the decisions and the hosts.

    a place on a host?  -> a promoted trial, else a new one (study proposes, ledger remembers, host trains)
    a stretch ended?    -> ledger records the report -> halving decides -> trials are promoted, pruned, finished
    a host in trouble?  -> its trials go on elsewhere from what they saved

The ledger is written before anything depends on it, and all decisions are functions of the ledger: a driver
that was killed is replaced by another one, which goes on from what is written. Owns no placement (``cluster``),
no decisions (``halving``, ``study``), no hosts (``hosts``, ``watch``), no training.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcluster.cluster.host import Host, HostLostError
from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.config.compose import from_dict, to_dict
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.engine.sharded.ranks import RankLost
from ftcluster.errors import FtclusterError, StoreError, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.board import Board
from ftcluster.sweep.halving import decide
from ftcluster.sweep.hosts import HostPool, Shape, Wish
from ftcluster.sweep.patience import Patience
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.proposals import next_trial
from ftcluster.sweep.space import override_words
from ftcluster.sweep.timeline import Span, append
from ftcluster.sweep.view import View
from ftcluster.sweep.watch import Watch
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.bench import prepare_data
from ftcluster.training.session import plan as plan_of
from ftcluster.training.worker import Job, Outcome

RETRIES = 2  # of a stretch whose host was lost
_TICK = 0.25  # seconds between looks at running trials
_PATIENCE = 60.0  # seconds running trials have to save when everything is put away
_AHEAD = 60.0  # seconds that trials behind it may run ahead of one that does not fit yet
_NODES = 600.0  # seconds to wait for nodes, where none has room for any trial and nothing runs
_LEDGER = ""
_MOST = 1024  # trials that hosts are made ready for before they are proposed


@dataclass
class _Stretch:
    """A trial on a host, from its checkpoint to the next rung."""

    trial: RunRow
    rung: int
    until: int
    host: Host
    job: Any
    waited: float  # seconds
    started: float  # seconds since 1970


@dataclass
class Driver:
    """Runs one sweep to its end; ``stopping`` makes it put everything away and return early."""

    plan: SweepPlan
    ledger: Ledger
    cluster: Cluster
    hosts: HostPool
    shape: Callable[[RunConfig], Shape]  # what a trial needs of a host
    shapes: Sequence[Shape]  # those that trials of the sweep may have, the largest first
    folder: Path
    tags: Mapping[str, str]
    view: View
    clock: Callable[[], float] = time.monotonic
    stopping: Callable[[], bool] = lambda: False
    _running: list[_Stretch] = field(default_factory=list)
    _lost: Counter[str] = field(default_factory=Counter)  # hosts lost under a trial that was alone there
    _lost_together: set[Host] = field(default_factory=set)
    _suspects: set[str] = field(default_factory=set)  # trials whose host was lost under them and others
    _avoid: dict[str, frozenset[str]] = field(default_factory=dict)  # nodes that a trial's last host was lost on
    _told: set[str] = field(default_factory=set)  # trials that people know a host did not take in
    _changed: bool = True  # something ended or was proposed since the last decision
    _exhausted: bool = False
    _broken: FtclusterError | None = None
    _promoted: dict[int, int] = field(default_factory=dict)  # trial number -> rung it may train to
    _shapes: dict[str, Shape] = field(default_factory=dict)  # of trials, by name
    _since: dict[str, float] = field(default_factory=dict)  # when trials that wait for a host began to
    _prepared: dict[str, PreparedData] = field(default_factory=dict)
    _numbers: dict[Host, int] = field(default_factory=dict)  # of hosts, in the order of their first trial
    _failed: dict[str, str] = field(default_factory=dict)  # trials whose end is still to be written down, and why
    _stranded: float | None = None  # since when no node has room for any trial
    _board: Board = field(init=False)
    _patience: Patience = field(init=False)

    def run(self) -> None:
        """Returns when every trial has ended, or everything running was saved after ``stopping``.

        Raises:
            StoreError: a disk is full or gone for longer than the sweep may wait; what was running was put away.
            UsageError: no node has room for any trial any more; likewise.
        """
        wanted, note = self.plan.base.cluster, self.view.note
        before = sum(trial.step for trial in self._trials())
        self._board = Board(self.plan, self.view, self.clock, before, self.clock())
        self._patience = Patience(wanted.storage_patience, note, self.clock)
        self.hosts.tell = note
        watch = Watch(self.cluster, self.hosts, wanted.hang_after, note, self.clock)
        while not self.stopping() and not self._broken:
            try:
                for name, reason in tuple(self._failed.items()):
                    self._fail(self.ledger.get(name), reason)
                self._decide()
                self._start()
                self._show()
                if self._over():
                    break
                self._collect()
                watch.look({stretch.host: stretch.trial.folder for stretch in self._running})
                self._patience.worked(_LEDGER)
            except StoreError as error:  # of the ledger, or of a trial's records; nothing is written by halves
                self._storage_fails(_LEDGER, error)
                time.sleep(_TICK)
        self._put_away()
        self._show()
        if self._broken:
            raise self._broken

    def _show(self) -> None:
        running = {stretch.trial.name: (stretch.host, stretch.until) for stretch in self._running}
        self._board.show(self._trials(), running)

    def _over(self) -> bool:
        """Nothing runs, and nothing is left that could."""
        return (
            not self._running
            and not self._failed
            and not self._due(self._trials(), self._values())
            and not self._more()
        )

    def _more(self) -> int:
        """Trials that are still to be proposed."""
        return 0 if self._exhausted else self.plan.trials - len(self._trials())

    def _on_host(self, name: str) -> bool:
        return any(stretch.trial.name == name for stretch in self._running)

    # Facts from the ledger ---------------------------------------------------------------------------------------

    def _trials(self) -> list[RunRow]:
        return self.ledger.runs(parent=self.plan.name)

    def _values(self) -> dict[int, dict[int, float]]:
        """trial number -> rung -> metric."""
        found: dict[int, dict[int, float]] = {}
        for report in self.ledger.reports(self.plan.name):
            found.setdefault(report.number, {})[report.rung] = report.metrics.get(self.plan.spec.metric, math.nan)
        return found

    # Decisions ---------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Write down what is certain by now; idempotent."""
        if not self._changed:
            return
        trials = self._trials()
        failed = {t.number for t in trials if t.state in (RunState.FAILED, RunState.KILLED)}
        count = len(trials) if self._exhausted else self.plan.trials
        verdict = decide(count, self.plan.rungs, self.plan.eta, self.plan.spec.direction, self._values(), failed)
        self._promoted = dict(verdict.promote)
        for trial in trials:
            if trial.state.ended or self._on_host(trial.name):
                continue
            if trial.number in verdict.finished:
                self._end(trial, RunState.FINISHED)
            elif trial.number in verdict.prune:
                self._end(trial, RunState.PRUNED, f"below the cut after step {trial.step}")
        self._changed = False

    def _end(self, trial: RunRow, state: RunState, reason: str = "") -> None:
        """Close a trial: its records first, so that a ledger that says ended means everything was recorded."""
        folder = RunFolder(Path(trial.folder))
        tracker = SpoolTracker(folder.path)
        try:
            if folder.adapter.is_dir():
                tracker.artifact(folder.adapter, "adapter")
            if folder.model.is_dir():
                tracker.tags({"ftcluster.model_folder": str(folder.model)})
            tracker.tags({"ftcluster.overrides": " ".join(override_words(trial.overrides))})
            tracker.state(state, reason)
            tracker.flush()
        finally:
            tracker.close()
        self.ledger.set_state(trial.name, state, reason=reason)
        if state in (RunState.FINISHED, RunState.PRUNED):  # its result is kept; nothing can resume it
            shutil.rmtree(folder.checkpoints, ignore_errors=True)

    def _fail(self, trial: RunRow, reason: str) -> None:
        """End a trial for good; as soon as this can be written down, whatever was lost with it."""
        self._failed[trial.name] = reason
        self._end(trial, RunState.FAILED, reason)
        del self._failed[trial.name]
        self._changed = True

    # Starting ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start whatever can start, and have hosts made ready for what cannot."""
        if self._patience.resting:
            return
        while self._start_next():
            pass
        wishes = [self._wish(trial) for trial in self._due(self._trials(), self._values())]
        more = [self.shapes[i % len(self.shapes)] for i in range(min(self._more(), _MOST))]
        self.hosts.arrange(wishes, more)
        self._look_for_nodes(wishes or [Wish(shape) for shape in more])

    def _start_next(self) -> bool:
        """Put one more trial on a host or propose one; False when neither can be now."""
        trials, values = self._trials(), self._values()
        due = self._due(trials, values)
        for trial in due:
            if host := self.hosts.take(self._wish(trial)):
                self._launch(trial, len(values.get(trial.number, ())), host)
                return True
            if self.clock() - self._since.setdefault(trial.name, self.clock()) > _AHEAD:
                return False  # the places that come free are for this one
        # A suspect waits for a host of its own, which new trials would keep taken.
        crowded = len(due) >= max(1, len(self.hosts.hosts)) or any(trial.name in self._suspects for trial in due)
        if self._more() and self.hosts.idle and not crowded:
            self._propose(trials, values)
            return True
        return False

    def _due(self, trials: list[RunRow], values: Mapping[int, Mapping[int, float]]) -> list[RunRow]:
        """Trials that may run now and do not, most urgent first.

        A trial may train to its first rung; to a later one only if it was promoted there.
        """
        reached = {trial.number: len(values.get(trial.number, ())) for trial in trials}
        return sorted(
            (
                trial
                for trial in trials
                if not trial.state.ended
                and not self._on_host(trial.name)
                and trial.name not in self._failed
                and (reached[trial.number] == 0 or self._promoted.get(trial.number) == reached[trial.number])
            ),
            key=lambda trial: (-reached[trial.number], trial.number),
        )

    def _wish(self, trial: RunRow) -> Wish:
        if trial.name not in self._shapes:
            self._shapes[trial.name] = self.shape(from_dict(trial.config))
        avoid = self._avoid.get(trial.name, frozenset())
        return Wish(self._shapes[trial.name], avoid, alone=trial.name in self._suspects)

    def _look_for_nodes(self, wishes: Sequence[Wish]) -> None:
        """Without any node that could take a trial, wait for one to join; not for ever."""
        if self._running or not wishes or any(self.hosts.can_ever(wish) for wish in set(wishes)):
            self._stranded = None
        elif self._stranded is None:
            self._stranded = self.clock()
            self.view.note("no node has room for any trial now; waiting for one to join")
        elif self.clock() - self._stranded > _NODES:
            self._broken = UsageError(
                "no node of the cluster has room for any trial",
                where="cluster",
                remedy="add nodes or mend GPUs (`ftcluster cluster status` tells of them)",
            )

    def _propose(self, trials: list[RunRow], values: Mapping[int, Mapping[int, float]]) -> None:
        """Take one more trial into the ledger; a point that is no config ends as a failed one."""
        if (found := next_trial(self.plan, self.folder, trials, values)) is None:
            self._exhausted = self._changed = True
            self._decide()  # fewer trials than planned: promotions may be possible now
            return
        trial, problem = found
        self.ledger.add(trial)
        if problem:
            self._fail(trial, problem)

    def _launch(self, trial: RunRow, rung: int, host: Host) -> None:
        try:
            config, prepared, total = self._opened(trial)
            until = self.plan.until(rung, total)
            tags = {**self.tags, "ftcluster.sweep": self.plan.name, "ftcluster.identity": trial.identity}
            self.ledger.set_state(trial.name, RunState.RUNNING)
        except FtclusterError as error:
            self.hosts.give_back(host)
            if isinstance(error, StoreError):
                raise
            self._fail(trial, str(error))
            return
        job = host.submit(Job(to_dict(config), trial.folder, prepared, until, tags))
        self._numbers.setdefault(host, len(self._numbers))
        waited = self.clock() - self._since.pop(trial.name, self.clock())
        self._running.append(_Stretch(trial, rung, until, host, job, waited, time.time()))

    def _opened(self, trial: RunRow) -> tuple[RunConfig, str, int]:
        """A trial's config, prepared data and length; trials of the same data share what was prepared."""
        config = from_dict(trial.config)
        key = repr((config.model, config.data, config.objective))
        if key not in self._prepared:
            self._prepared[key] = prepare_data(config)
        data = self._prepared[key]
        total = self._board.totals[trial.name] = plan_of(config, data).total
        return config, str(data.folder), total

    # Finishing ---------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        ended = self.hosts.wait([s.job for s in self._running], _TICK)
        for stretch in [s for s in self._running if s.job in ended]:
            self._running.remove(stretch)
            self._changed = True
            self._note(stretch, self._take_back(stretch))

    def _take_back(self, stretch: _Stretch) -> str:
        """See to a stretch that is over; how it ended, in a word."""
        try:
            outcome: Outcome = self.cluster.result(stretch.job)
            if isinstance(outcome.error, RankLost):  # its host is of no use any more
                raise HostLostError(outcome.error.message)
        except HostLostError as error:
            if any(other.host is stretch.host for other in self._running):
                self._lost_together.add(stretch.host)
            shared = stretch.host in self._lost_together  # also for the last one to tell of it
            self._avoid[stretch.trial.name] = self.hosts.lost(stretch.host) or frozenset(stretch.host.nodes)
            self._retry(stretch, self.hosts.reason(stretch.host) or error.message, shared=shared)
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

    def _note(self, stretch: _Stretch, end: str) -> None:
        host = f"host {self._numbers[stretch.host]}"
        span = (stretch.trial.name, stretch.rung, host, stretch.host.nodes, stretch.waited, stretch.started)
        append(self.folder, Span(*span, time.time(), end))

    def _wait(self, stretch: _Stretch, reason: str) -> None:
        """A host did not take a trial in; it is as it was, and starts when there is room."""
        trial = stretch.trial
        self.ledger.set_state(trial.name, trial.state, reason=trial.reason)
        if trial.name not in self._told:
            self._told.add(trial.name)
            self.view.note(f"{trial.name} waits for a host that is less full: {reason}")

    def _settle(self, stretch: _Stretch, outcome: Outcome, moved: str) -> None:
        """``moved``: why its host let its trials go."""
        trial = self.ledger.get(stretch.trial.name)
        for warning in outcome.warnings:
            self.view.note(f"{trial.name}: {warning}")
        if isinstance(outcome.error, StoreError):  # no fault of the trial's
            self._interrupt(trial, outcome.error.message)
            raise outcome.error
        if outcome.stopped and moved and not self.stopping():
            self._interrupt(trial, moved)
        elif outcome.error:
            self._fail(trial, str(outcome.error))
        elif outcome.stopped:
            self._interrupt(trial, "stopped by the user")
        else:
            assert outcome.report is not None
            if self.plan.spec.metric not in outcome.report.metrics:
                known = ", ".join(sorted(outcome.report.metrics))
                self._fail(trial, f"it reported no {self.plan.spec.metric}, only {known}")
                return
            self.ledger.record(outcome.report, stretch.rung)
            self.ledger.set_state(trial.name, RunState.PAUSED)

    def _storage_fails(self, user: str, error: StoreError) -> None:
        if self._patience.failed(user, error):
            self._broken = error

    def _retry(self, stretch: _Stretch, reason: str, *, shared: bool) -> None:
        """Try again; a trial whose host was lost under several goes on alone, since one of them may be the cause."""
        trial = self.ledger.get(stretch.trial.name)
        if shared:
            self._suspects.add(trial.name)
        else:
            self._lost[trial.name] += 1
        if self._lost[trial.name] > RETRIES:
            self._fail(trial, f"{reason} ({RETRIES + 1} times)")
        else:
            self.view.note(f"{trial.name}: {reason}; it goes on from its newest checkpoint on another host")
            self.ledger.set_state(trial.name, RunState.INTERRUPTED, reason=reason)

    def _interrupt(self, trial: RunRow, reason: str) -> None:
        """Records first; where they cannot be written the trial stays as it is, for the next command to find."""
        try:
            with closing(SpoolTracker(Path(trial.folder))) as tracker:
                tracker.state(RunState.INTERRUPTED, reason)
        except StoreError as error:
            self.view.note(str(error))
        else:
            self.ledger.set_state(trial.name, RunState.INTERRUPTED, reason=reason)

    def _put_away(self) -> None:
        """Let running trials save and return, at most for a minute; paused ones are saved already."""
        if not self._running and not self.stopping() and not self._broken:
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
        for trial in self._trials():
            if trial.state in (RunState.RUNNING, RunState.PAUSED):
                self._interrupt(trial, "stopped by the user" if not self._broken else self._broken.message)
