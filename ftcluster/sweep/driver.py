"""The driver of a sweep: an event loop between the ledger, the decisions and the hosts.

    free host?  -> a promoted trial, else a new one (study proposes, ledger remembers, host trains)
    host done?  -> ledger records the report -> halving decides -> trials are promoted, pruned, finished

The ledger is written before anything depends on it, and all decisions are functions of the ledger: a driver
that was killed is replaced by another one, which goes on from what is written. Owns no placement (``cluster``),
no decisions (``halving``, ``study``), no training.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcluster.cluster.ray_cluster import Cluster, Host, HostLostError
from ftcluster.config.compose import from_dict, to_dict
from ftcluster.config.identity import identity
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.engine.sharded.ranks import RankLost
from ftcluster.errors import FtclusterError, StoreError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.halving import decide
from ftcluster.sweep.hosts import HostPool
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.space import override_words
from ftcluster.sweep.study import Observation, propose
from ftcluster.sweep.view import Overview, TrialLine, View, in_words
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.bench import prepare_data
from ftcluster.training.session import plan as plan_of
from ftcluster.training.worker import Job, Outcome

RETRIES = 2  # of a stretch whose host was lost
_TICK = 0.25  # seconds between looks at running trials
_PATIENCE = 60.0  # seconds running trials have to save when everything is put away


@dataclass
class _Stretch:
    """A trial on a host, from its checkpoint to the next rung."""

    trial: RunRow
    rung: int
    until: int
    host: Host
    job: Any


@dataclass
class Driver:
    """Runs one sweep to its end; ``stop`` makes it put everything away and return early."""

    plan: SweepPlan
    ledger: Ledger
    cluster: Cluster
    hosts: HostPool
    folder: Path
    tags: Mapping[str, str]
    view: View
    clock: Callable[[], float] = time.monotonic
    stopping: Callable[[], bool] = lambda: False
    _running: list[_Stretch] = field(default_factory=list)
    _lost: Counter[str] = field(default_factory=Counter)  # hosts lost under a trial that was alone there
    _lost_together: set[Host] = field(default_factory=set)
    _suspects: set[str] = field(default_factory=set)  # trials whose host was lost under them and others
    _told: set[str] = field(default_factory=set)  # trials that people know a host did not take in
    _changed: bool = True  # something ended or was proposed since the last decision
    _exhausted: bool = False
    _broken: StoreError | None = None
    _promoted: dict[int, int] = field(default_factory=dict)  # trial number -> rung it may train to
    _totals: dict[str, int] = field(default_factory=dict)
    _prepared: dict[str, PreparedData] = field(default_factory=dict)
    _started: float = 0.0
    _steps_before: int = 0  # trained by an earlier driver of this sweep

    def run(self) -> None:
        """Returns when every trial has ended, or everything running was saved after ``stop``.

        Raises:
            StoreError: a disk is full or gone; everything running was put away and can be resumed.
        """
        self._started = self.clock()
        self._steps_before = sum(trial.step for trial in self._trials())
        hosts = self.hosts
        while not self.stopping() and not self._broken:
            self._decide()
            while hosts.idle and self._start_next(hosts):
                pass
            self._show()
            if self._over(hosts):
                break
            self._collect(hosts)
        self._put_away(hosts)
        self._show()
        if self._broken:
            raise self._broken

    def _over(self, hosts: HostPool) -> bool:
        """Nothing runs, and an idle host found nothing to do: whatever is left waits for nothing that could come."""
        if self._running:
            return False
        trials = self._trials()
        complete = self._exhausted or len(trials) == self.plan.trials
        return hosts.empty or (complete and all(trial.state.ended for trial in trials))

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
        self._changed = False
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

    # Starting ----------------------------------------------------------------------------------------------------

    def _start_next(self, hosts: HostPool) -> bool:
        """Put one more trial on an idle host; False when none can start now."""
        trials = self._trials()
        values = self._values()
        reached = {t.number: len(values.get(t.number, ())) for t in trials}
        ready = [t for t in trials if not t.state.ended and not self._on_host(t.name)]
        # A trial may train to its first rung; to a later one only if it was promoted there.
        due = [t for t in ready if reached[t.number] == 0 or self._promoted.get(t.number) == reached[t.number]]
        startable = [t for t in due if hosts.has_place(alone=t.name in self._suspects)]
        if startable:
            trial = max(startable, key=lambda t: (reached[t.number], -t.number))
            return self._launch(trial, reached[trial.number], hosts)
        if due:  # a suspect waits for a host of its own, which new trials would keep taken
            return False
        if len(trials) < self.plan.trials and not self._exhausted:
            return self._propose(trials, values, hosts)
        return False

    def _propose(self, trials: list[RunRow], values: Mapping[int, Mapping[int, float]], hosts: HostPool) -> bool:
        history = [Observation(t.number, t.overrides, t.state, *_latest(values.get(t.number, {}))) for t in trials]
        number = len(trials)
        spec = self.plan.spec
        point = propose(
            self.plan.space,
            spec.sampler.name,
            seed=spec.sampler.seed,
            direction=spec.direction,
            number=number,
            history=history,
        )
        if point is None:
            self._exhausted = self._changed = True
            self._decide()
            return True  # fewer trials than planned: promotions may be possible now
        name = self.plan.trial_name(number)
        config, problem = self.plan.base, ""
        try:
            config = self.plan.trial_config(number, point)
        except FtclusterError as error:
            problem = str(error)
        trial = RunRow(
            name=name,
            kind="trial",
            folder=str(self.folder / name),
            config=to_dict(config),
            overrides=point,
            identity=identity(config),
            parent=self.plan.name,
            number=number,
        )
        self.ledger.add(trial)
        if problem:
            self._end(trial, RunState.FAILED, problem)
            self._changed = True
            return True
        return self._launch(trial, 0, hosts)

    def _launch(self, trial: RunRow, rung: int, hosts: HostPool) -> bool:
        try:
            config, prepared, total = self._opened(trial)
        except FtclusterError as error:
            self._end(trial, RunState.FAILED, str(error))
            self._changed = True
            return True
        until = self.plan.until(rung, total)
        tags = {**self.tags, "ftcluster.sweep": self.plan.name, "ftcluster.identity": trial.identity}
        self.ledger.set_state(trial.name, RunState.RUNNING)
        host = hosts.take(alone=trial.name in self._suspects)
        job = host.submit(Job(to_dict(config), trial.folder, prepared, until, tags))
        self._running.append(_Stretch(trial, rung, until, host, job))
        return True

    def _opened(self, trial: RunRow) -> tuple[RunConfig, str, int]:
        """A trial's config, prepared data and length; trials of the same data share what was prepared."""
        config = from_dict(trial.config)
        key = repr((config.model, config.data, config.objective))
        if key not in self._prepared:
            self._prepared[key] = prepare_data(config)
        data = self._prepared[key]
        self._totals[trial.name] = plan_of(config, data).total
        return config, str(data.folder), self._totals[trial.name]

    # Finishing ---------------------------------------------------------------------------------------------------

    def _collect(self, hosts: HostPool) -> None:
        ended = hosts.wait([s.job for s in self._running], _TICK)
        for stretch in [s for s in self._running if s.job in ended]:
            self._running.remove(stretch)
            self._changed = True
            try:
                outcome: Outcome = self.cluster.result(stretch.job)
                if isinstance(outcome.error, RankLost):  # its host is of no use any more
                    raise HostLostError(outcome.error.message)
            except HostLostError as error:
                if any(other.host is stretch.host for other in self._running):
                    self._lost_together.add(stretch.host)
                shared = stretch.host in self._lost_together  # also for the last one to tell of it
                hosts.replace(stretch.host)
                self._retry(stretch, error, shared=shared)
                continue
            if outcome.refused:
                hosts.refused(stretch.host)
                self._wait(stretch, outcome.refused)
                continue
            hosts.give_back(stretch.host)
            self._settle(stretch, outcome)

    def _wait(self, stretch: _Stretch, reason: str) -> None:
        """A host did not take a trial in; it is as it was, and starts when there is room."""
        trial = stretch.trial
        self.ledger.set_state(trial.name, trial.state, reason=trial.reason)
        if trial.name not in self._told:
            self._told.add(trial.name)
            self.view.note(f"{trial.name} waits for a host that is less full: {reason}")

    def _settle(self, stretch: _Stretch, outcome: Outcome) -> None:
        trial = self.ledger.get(stretch.trial.name)
        for warning in outcome.warnings:
            self.view.note(f"{trial.name}: {warning}")
        if isinstance(outcome.error, StoreError):  # no fault of the trial's: it goes on when the disk does
            self._broken = outcome.error
            self._interrupt(trial, outcome.error.message)
        elif outcome.error:
            self._end(trial, RunState.FAILED, str(outcome.error))
        elif outcome.stopped:
            self._interrupt(trial, "stopped by the user")
        else:
            assert outcome.report is not None
            if self.plan.spec.metric not in outcome.report.metrics:
                known = ", ".join(sorted(outcome.report.metrics))
                reason = f"it reported no {self.plan.spec.metric}, only {known}"
                self._end(trial, RunState.FAILED, reason)
                return
            self.ledger.record(outcome.report, stretch.rung)
            self.ledger.set_state(trial.name, RunState.PAUSED)

    def _retry(self, stretch: _Stretch, error: HostLostError, *, shared: bool) -> None:
        """Try again; a trial whose host was lost under several goes on alone, since one of them may be the cause."""
        trial = self.ledger.get(stretch.trial.name)
        if shared:
            self._suspects.add(trial.name)
        else:
            self._lost[trial.name] += 1
        if self._lost[trial.name] > RETRIES:
            self._end(trial, RunState.FAILED, f"{error.message} ({RETRIES + 1} times)")
        else:
            self.view.note(f"{trial.name}: {error.message}; it goes on from its newest checkpoint on another host")
            self.ledger.set_state(trial.name, RunState.INTERRUPTED, reason=error.message)

    def _interrupt(self, trial: RunRow, reason: str) -> None:
        """Records first; where they cannot be written the trial stays as it is, for the next command to find."""
        try:
            with closing(SpoolTracker(Path(trial.folder))) as tracker:
                tracker.state(RunState.INTERRUPTED, reason)
        except StoreError as error:
            self.view.note(str(error))
        else:
            self.ledger.set_state(trial.name, RunState.INTERRUPTED, reason=reason)

    def _put_away(self, hosts: HostPool) -> None:
        """Let running trials save and return, at most for a minute; paused ones are saved already."""
        if not self._running and not self.stopping() and not self._broken:
            return
        for stretch in self._running:
            stretch.host.stop()
        deadline = self.clock() + _PATIENCE
        while self._running and self.clock() < deadline:
            self._collect(hosts)
        for stretch in self._running:
            stretch.host.kill()
        for trial in self._trials():
            if trial.state in (RunState.RUNNING, RunState.PAUSED):
                self._interrupt(trial, "stopped by the user" if not self._broken else self._broken.message)

    # Showing -----------------------------------------------------------------------------------------------------

    def _on_host(self, name: str) -> bool:
        return any(stretch.trial.name == name for stretch in self._running)

    def _show(self) -> None:
        trials = self._trials()
        on_host = {s.trial.name: s for s in self._running}
        lines = [self._line(trial, on_host.get(trial.name)) for trial in trials]
        ended = sum(trial.state.ended for trial in trials)
        elapsed = self.clock() - self._started
        steps = sum(line.step for line in lines)
        rate = (steps - self._steps_before) / elapsed if elapsed > 0 else 0.0
        left = max(self.plan.steps_at_most - steps, 0) / rate if rate else math.nan
        if ended == self.plan.trials:
            left = 0.0
        self.view.show(lines, Overview(self.plan.name, self.plan.spec.metric, ended, self.plan.trials, elapsed, left))

    def _line(self, trial: RunRow, stretch: _Stretch | None) -> TrialLine:
        seen = (stretch.host.peek() or {}).get(trial.folder) if stretch else None
        step = max(seen.step, trial.step) if seen else trial.step
        until = stretch.until if stretch else trial.step
        speed = seen.seconds / seen.step if seen and seen.step else math.nan
        return TrialLine(
            name=trial.name,
            state=trial.state,
            step=step,
            until=until,
            total=self._totals.get(trial.name, self.plan.rungs[-1]),
            loss=seen.loss if seen else math.nan,
            metric=trial.metrics.get(self.plan.spec.metric, math.nan),
            tokens_per_s=seen.tokens_per_s if seen else 0.0,
            eta_s=(until - step) * speed,
            overrides=in_words(trial.overrides),
            note=trial.reason if trial.state is RunState.FAILED else "",
        )


def _latest(reports: Mapping[int, float]) -> tuple[float | None, int]:
    if not reports:
        return None, 0
    rung = max(reports)
    return reports[rung], rung
