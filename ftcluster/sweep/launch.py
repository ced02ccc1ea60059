"""Runs a sweep from plan to end: claims it in the ledger, connects to Ray, keeps MLflow fed, survives Ctrl-C.

Owns the effects around the driver; the driver itself knows no signals, no MLflow and no start-up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from ftcluster.config.compose import from_dict, resolve_home, to_dict
from ftcluster.config.environment import home_option
from ftcluster.config.schema import SweepConfig
from ftcluster.contracts.trial import RunState
from ftcluster.errors import Interrupted, StoreError, TrackingError, TrialError, UsageError
from ftcluster.ledger.process import this_process
from ftcluster.ledger.ranking import best_trial
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.control import check_resumable, control, specification, unfinished
from ftcluster.sweep.driver import Driver
from ftcluster.sweep.ending import end as end_trial
from ftcluster.sweep.facts import Facts
from ftcluster.sweep.observation import Observation
from ftcluster.sweep.opening import Opening
from ftcluster.sweep.plan import Fitted, SweepPlan, make_plan
from ftcluster.sweep.prediction import adopt
from ftcluster.sweep.view import View
from ftcluster.tracking.projector import Projector
from ftcluster.tracking.service import ProjectorThread
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.bench import data_lineage
from ftcluster.training.records import deliver, owner_check, remember_ids, store_uri, to_project
from ftcluster.training.signals import stop_signals

_OUTLIVING = 30.0  # seconds


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended; ``best`` is its best finished trial by its metric."""

    name: str
    folder: Path
    best: RunRow
    trials: list[RunRow]
    undelivered: int  # records MLflow does not have yet


def register(plan: SweepPlan, ledger: Ledger, *, once: bool = False) -> RunRow:
    """Write a new sweep into the ledger; its name gets a number if it is taken.

    ``once``: unless the same sweep was begun and has not ended, which is returned then; of several launches at the same
    moment all but one get it.
    """
    home = resolve_home(plan.base)
    config = {
        "spec": to_dict(plan.spec),
        "base": to_dict(plan.base),
        "prepared": plan.prepared,
        "rungs": list(plan.rungs),
        "earlier": [asdict(seen) for seen in plan.earlier],
        "fitted": asdict(plan.fitted),
    }
    row = ledger.add_with_free_name(
        plan.name,
        lambda name: RunRow(name=name, kind="sweep", folder=str(home / name), config=config),
        (lambda rows: unfinished(rows, plan.spec)) if once else None,
    )
    adopt(home, plan.spec, Path(row.folder))
    return row


def stored_plan(row: RunRow, progress: Callable[[int, int], None] | None = None) -> SweepPlan:
    """The plan of a sweep in the ledger, for resuming it.

    Raises:
        UsageError: the run is no sweep, has ended, or its data is no longer what it was.
    """
    check_resumable(row)
    known = [Observation(**seen) for seen in row.config.get("earlier", ())]
    plan = make_plan(specification(row), from_dict(row.config["base"]), progress=progress, earlier=known)
    plan = plan.with_fitted(Fitted.read(row.config.get("fitted", {})))
    if plan.prepared != row.config["prepared"]:
        raise UsageError(
            f"the data of {row.name}, its tokenizer or what ftcluster makes of them changed since it started",
            remedy="put back what was changed and resume, or start a new sweep",
        )
    return plan


def run_sweep(
    row: RunRow,
    plan: SweepPlan,
    ledger: Ledger,
    console: Console,
    opening: Opening,
    *,
    take_over: bool = False,
) -> SweepResult:
    """Drive a registered sweep to its end. ``take_over``: from an owner on a host that cannot be asked.

    Raises:
        StoreError: another driver has this sweep, or a disk is full; what was saved can be resumed.
        UsageError: the cluster has no room for its trials; likewise.
        Interrupted: stopped by a signal; everything was saved and can be resumed.
        TrialError: no trial finished.
    """
    plan = replace(plan, name=row.name)  # the ledger may have numbered it
    home = resolve_home(plan.base)
    if row.state is RunState.FAILED:
        ledger.reopen(row.name)
    ledger.claim(row.name, this_process(), owner_check(take_over=take_over))
    uri = store_uri(home, plan.base.tracking.uri)
    thread = ProjectorThread(
        Projector(uri, home), lambda: [to_project(r) for r in (row, *ledger.runs(parent=row.name))]
    )
    end, reason = RunState.FAILED, "the driver failed; see its output"
    try:
        end, reason = _drive(row, plan, ledger, console, thread, opening)
    except KeyboardInterrupt:  # while Ray was starting, or a second time
        end, reason = RunState.INTERRUPTED, "stopped by the user"
    except (StoreError, UsageError) as error:  # of a disk, or of a cluster without room: it goes on once there is
        end, reason = RunState.INTERRUPTED, error.message
        error.remedy += f"; then: ftcluster sweep resume {row.name}{home_option(home)}"
        raise
    finally:
        opening.end()
        try:
            _close(row, plan.spec, ledger, end, reason)
        finally:
            undelivered = thread.stop()
            remember_ids(ledger, (row, *ledger.runs(parent=row.name)), uri)
    if end is RunState.INTERRUPTED:
        remedy = f"ftcluster sweep resume {row.name}{home_option(home)}"
        raise Interrupted(f"{row.name} was stopped; its trials are saved", remedy=remedy)
    trials = ledger.runs(parent=row.name)
    best = _best(trials, plan.spec)
    if best is None:
        raise TrialError(f"no trial of {row.name} finished: {reason}", remedy=f"ftcluster runs {row.name}")
    return SweepResult(row.name, Path(row.folder), best, trials, undelivered)


def end_sweep(row: RunRow, ledger: Ledger) -> RunRow:
    """End a sweep that nobody drives, as somebody asked; the best so far is kept.

    Raises:
        StoreError: somebody drives it, or a disk is full.
    """
    spec, reason, home = specification(row), control(row).sweep.reason, Path(row.folder).parent
    ledger.claim(row.name, this_process(), owner_check(take_over=False))
    facts = Facts(ledger, row.name, spec.metric)
    for trial in facts.trials:
        if not trial.state.ended:
            _end_soon(facts, trial, reason)
    _close(row, spec, ledger, RunState.FINISHED if _best(facts.trials, spec) else RunState.KILLED, reason)
    with suppress(TrackingError):  # `ftcluster runs sync` delivers it
        uri = store_uri(home, row.config["base"].get("tracking", {}).get("uri", ""))
        deliver(ledger, [row, *facts.trials], home, uri)
    return ledger.get(row.name)


def _end_soon(facts: Facts, trial: RunRow, reason: str) -> None:
    """A host outlives its driver by seconds, in which nobody else can write the records of its trials."""
    deadline = time.monotonic() + _OUTLIVING
    while True:
        try:
            return end_trial(facts, trial, RunState.KILLED, reason)
        except StoreError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def _drive(
    row: RunRow, plan: SweepPlan, ledger: Ledger, console: Console, thread: ProjectorThread, opening: Opening
) -> tuple[RunState, str]:
    """Run the driver; returns how the sweep ended and why."""
    tags = data_lineage(plan.base)
    with closing(SpoolTracker(Path(row.folder))) as own:
        own.params({"sweep": to_dict(plan.spec)})
        own.tags({**tags, "ftcluster.rungs": ", ".join(map(str, plan.rungs))})
        own.state(RunState.RUNNING)
    thread.start()
    cluster, hosts = opening.get()
    with View(console) as view, stop_signals() as stop:  # after Ray, which sets a handler of its own for SIGTERM
        shapes = opening.shapes(plan.space)
        folder = Path(row.folder)
        sharing = opening.sharing(row.name, shapes[0], view.note)
        driver = Driver(
            plan, ledger, cluster, hosts, opening.wish, shapes, folder, tags, view, sharing, stopping=stop.is_set
        )
        early = driver.run()
        asked = bool(control(ledger.get(row.name)).sweep.state)
        return _verdict(ledger.runs(parent=row.name), plan, early, asked=asked, stopped=stop.is_set())


def _close(row: RunRow, spec: SweepConfig, ledger: Ledger, end: RunState, reason: str) -> None:
    """Tell the spool, then the ledger, how the sweep ended; the ledger also where the spool cannot be written."""
    trials = ledger.runs(parent=row.name)
    try:
        with closing(SpoolTracker(Path(row.folder))) as own:
            _summarise(own, trials, spec)
            own.state(end, reason)
            own.flush()
    finally:
        best = _best(trials, spec)
        ledger.set_state(row.name, end, reason=reason, metrics=dict(best.metrics) if best else {})


def _best(trials: list[RunRow], spec: SweepConfig) -> RunRow | None:
    return best_trial(trials, spec.metric, spec.direction, spec.repeats)


def _verdict(trials: list[RunRow], plan: SweepPlan, early: str, *, asked: bool, stopped: bool) -> tuple[RunState, str]:
    """``early``: why it ended before all was done, which somebody ``asked`` for or which happened."""
    if stopped and not all(t.state.ended for t in trials):
        return RunState.INTERRUPTED, "stopped by the user"
    if _best(trials, plan.spec):
        return RunState.FINISHED, early
    if early:
        return RunState.KILLED if asked else RunState.FAILED, early
    reasons = [t.reason.splitlines()[0] for t in trials if t.state is RunState.FAILED and t.reason]
    return RunState.FAILED, reasons[0] if reasons else "no trial finished"


def _summarise(own: SpoolTracker, trials: list[RunRow], spec: SweepConfig) -> None:
    """The sweep's own metrics in MLflow: how its trials ended and the best value, at step = trials ended."""
    ended = [t for t in trials if t.state.ended]
    values = {f"sweep/{s.value}": float(sum(t.state is s for t in ended)) for s in RunState if s.ended}
    if best := _best(trials, spec):
        values["sweep/best"] = best.metrics[spec.metric]
        own.tags({"ftcluster.best": best.name})
    own.metrics(values, len(ended))
