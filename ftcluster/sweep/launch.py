"""Runs a sweep from plan to end: claims it in the ledger, connects to Ray, keeps MLflow fed, survives Ctrl-C.

Owns the effects around the driver; the driver itself knows no signals, no MLflow and no start-up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.config.compose import from_dict, resolve_home, to_dict
from ftcluster.config.environment import ray_address
from ftcluster.config.schema import SweepConfig
from ftcluster.config.values import build
from ftcluster.contracts.trial import RunState
from ftcluster.errors import Interrupted, TrialError, UsageError
from ftcluster.ledger.process import is_alive, this_process
from ftcluster.ledger.ranking import best_trial
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.driver import Driver
from ftcluster.sweep.plan import SweepPlan, make_plan
from ftcluster.sweep.view import View
from ftcluster.tracking.lineage import lineage
from ftcluster.tracking.projector import Projector
from ftcluster.tracking.service import ProjectorThread
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.launch import home_option
from ftcluster.training.records import remember_ids, store_uri, to_project
from ftcluster.training.signals import stop_signals


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended; ``best`` is its best finished trial by its metric."""

    name: str
    folder: Path
    best: RunRow
    trials: list[RunRow]
    undelivered: int  # records MLflow does not have yet


def register(plan: SweepPlan, ledger: Ledger) -> RunRow:
    """Write a new sweep into the ledger; its name gets a number if it is taken."""
    home = resolve_home(plan.base)
    config = {"spec": to_dict(plan.spec), "base": to_dict(plan.base)}
    return ledger.add_with_free_name(
        plan.name, lambda name: RunRow(name=name, kind="sweep", folder=str(home / name), config=config)
    )


def stored_plan(row: RunRow, progress: Callable[[int, int], None] | None = None) -> SweepPlan:
    """The plan of a sweep in the ledger, for resuming it.

    Raises:
        UsageError: the run is no sweep.
    """
    if row.kind != "sweep":
        raise UsageError(f"{row.name} is a {row.kind}, not a sweep", remedy="`ftcluster runs` lists sweeps")
    spec: SweepConfig = build(SweepConfig, dict(row.config["spec"]))
    plan = make_plan(spec, from_dict(row.config["base"]), progress=progress)
    return named(plan, row.name)


def named(plan: SweepPlan, name: str) -> SweepPlan:
    """The plan under the name its sweep has in the ledger."""
    return replace(plan, name=name)


def run_sweep(row: RunRow, plan: SweepPlan, ledger: Ledger, console: Console) -> SweepResult:
    """Drive a registered sweep to its end.

    Raises:
        StoreError: another driver has this sweep.
        Interrupted: stopped by a signal; everything was saved and can be resumed.
        TrialError: no trial finished.
    """
    plan = named(plan, row.name)
    home, folder = resolve_home(plan.base), Path(row.folder)
    if row.state is RunState.FAILED:
        ledger.reopen(row.name)
    ledger.claim(row.name, this_process(), is_alive)
    uri = store_uri(home, plan.base.tracking.uri)
    files = [Path(p) for p in (*plan.base.data.train, *plan.base.data.validation, *plan.base.data.test)]
    tags = lineage(files)
    own = SpoolTracker(folder)
    thread = ProjectorThread(
        Projector(uri, home), lambda: [to_project(r) for r in (row, *ledger.runs(parent=row.name))]
    )
    end, reason = RunState.FAILED, "the driver failed; see its output"
    try:
        own.params({"sweep": to_dict(plan.spec)})
        own.tags({**tags, "ftcluster.rungs": ", ".join(map(str, plan.rungs))})
        own.state(RunState.RUNNING)
        thread.start()
        with Cluster(ray_address(plan.base.cluster.address)) as cluster, View(console) as view, stop_signals() as stop:
            Driver(plan, ledger, cluster, folder, tags, view, stopping=stop.is_set).run()
        trials = ledger.runs(parent=row.name)
        end, reason = _verdict(trials, plan, stop.is_set())
        _summarise(own, trials, plan)
    finally:
        ledger.set_state(row.name, end, reason=reason, metrics=_best_metrics(ledger, plan))
        own.state(end, reason)
        own.flush()
        own.close()
        undelivered = thread.stop()
        remember_ids(ledger, (row, *ledger.runs(parent=row.name)), uri)
    if end is RunState.INTERRUPTED:
        remedy = f"ftcluster sweep resume {row.name}{home_option(home)}"
        raise Interrupted(f"{row.name} was stopped; its trials are saved", remedy=remedy)
    best = _best(trials, plan)
    if best is None:
        raise TrialError(f"no trial of {row.name} finished: {reason}", remedy=f"ftcluster runs {row.name}")
    return SweepResult(row.name, folder, best, trials, undelivered)


def _best(trials: list[RunRow], plan: SweepPlan) -> RunRow | None:
    return best_trial(trials, plan.spec.metric, plan.spec.direction)


def _best_metrics(ledger: Ledger, plan: SweepPlan) -> dict[str, float]:
    best = _best(ledger.runs(parent=plan.name), plan)
    return dict(best.metrics) if best else {}


def _verdict(trials: list[RunRow], plan: SweepPlan, stopped: bool) -> tuple[RunState, str]:
    if stopped and not all(t.state.ended for t in trials):
        return RunState.INTERRUPTED, "stopped by the user"
    if _best(trials, plan):
        return RunState.FINISHED, ""
    reasons = [t.reason.splitlines()[0] for t in trials if t.state is RunState.FAILED and t.reason]
    return RunState.FAILED, reasons[0] if reasons else "no trial finished"


def _summarise(own: SpoolTracker, trials: list[RunRow], plan: SweepPlan) -> None:
    """The sweep's own metrics in MLflow: how its trials ended and the best value, at step = trials ended."""
    ended = [t for t in trials if t.state.ended]
    values = {f"sweep/{s.value}": float(sum(t.state is s for t in ended)) for s in RunState if s.ended}
    if best := _best(trials, plan):
        values["sweep/best"] = best.metrics[plan.spec.metric]
        own.tags({"ftcluster.best": best.name})
    own.metrics(values, len(ended))
