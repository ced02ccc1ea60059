"""Runs one training in this process: registered in the ledger, resumable, delivered to MLflow meanwhile.

Owns the effects around a session that a sweep's driver has for its trials. Works without Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ftcluster.config.checks import check, check_files
from ftcluster.config.compose import from_dict, resolve_home, to_dict
from ftcluster.config.environment import home_option
from ftcluster.config.identity import identity
from ftcluster.config.resumption import changes, resumed
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState
from ftcluster.data.prepared.report import Report
from ftcluster.engine.sharded.ranks import RankLost
from ftcluster.errors import Interrupted, Problems, UsageError
from ftcluster.ledger.process import this_process
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.projector import Projector
from ftcluster.tracking.service import ProjectorThread
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training import attempts
from ftcluster.training.bench import data_lineage, prepare_data
from ftcluster.training.foretelling import foretell, refuse
from ftcluster.training.loop import Progress
from ftcluster.training.records import owner_check, remember_ids, store_uri, to_project
from ftcluster.training.resumption import note_changes
from ftcluster.training.session import Plan, plan
from ftcluster.training.sharding import check_layout
from ftcluster.training.signals import stop_signals
from ftcluster.training.worker import Job, Outcome


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended; ``undelivered`` counts records MLflow does not have yet, ``warnings`` are for people."""

    row: RunRow
    folder: RunFolder
    undelivered: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ready:
    """A checked config with its data prepared and its length known: what ``--dry-run`` shows."""

    config: RunConfig
    prepared: Path
    plan: Plan
    report: Report  # what became of the rows


def get_ready(config: RunConfig, progress: Callable[[int, int], None] | None = None, *, begun: bool = False) -> Ready:
    """Check everything and prepare the data; nothing is registered yet, unless it was ``begun`` before.

    Raises:
        ConfigError: every problem of the config and its files.
        DataError: the data cannot be used.
        UsageError: the memory is known, and not enough.
    """
    found = Problems()
    for look in (check, check_files, check_layout):
        with found.collected():
            look(config)
    found.refuse()
    data = prepare_data(config, progress)
    if not begun:
        refuse(config, foretell(config, str(data.folder)))
    return Ready(config, data.folder, plan(config, data), data.report)


def register(ready: Ready, ledger: Ledger, wanted: str) -> RunRow:
    """Write a new training into the ledger, under the config's name or a free one like ``wanted``."""
    home = resolve_home(ready.config)

    def make(name: str) -> RunRow:
        config = replace(ready.config, name=name)
        return RunRow(
            name=name, kind="train", folder=str(home / name), config=to_dict(config), identity=identity(config)
        )

    return ledger.add(make(ready.config.name)) if ready.config.name else ledger.add_with_free_name(wanted, make)


def stored_config(row: RunRow, words: Sequence[str] = ()) -> RunConfig:
    """The config of a training in the ledger, for resuming it; ``words`` say how it is computed from now on.

    Raises:
        UsageError: the run is not a training, or has ended.
        ConfigError: the words would change the result, or what they make of the config cannot be.
    """
    if row.kind != "train":
        raise UsageError(
            f"{row.name} is a {row.kind}, not a training", remedy=f"ftcluster sweep resume {row.parent or row.name}"
        )
    if row.state in (RunState.FINISHED, RunState.KILLED):
        raise UsageError(f"{row.name} is {row.state}; there is nothing to resume", remedy="start a new run")
    return resumed(from_dict(row.config), words)


def run_training(
    row: RunRow,
    ready: Ready,
    ledger: Ledger,
    observe: Callable[[Progress], None],
    *,
    take_over: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> TrainingResult:
    """Train a registered run from its newest checkpoint to its end, over several groups of ranks if some are lost.

    Where ``ready`` has another config than the ledger, the run goes on with that one, and its records say so.
    ``take_over``: also if its owner is on a host that cannot be asked. ``tell`` is for people, and for at once.

    Raises:
        StoreError: another process runs it.
        Interrupted: stopped by a signal, or its ranks are lost again and again; saved, and resumable.
        FtclusterError: why it failed.
    """
    config = replace(ready.config, name=row.name)
    home, folder = resolve_home(config), RunFolder(Path(row.folder))
    if row.state is RunState.FAILED:
        ledger.reopen(row.name)
    uri = store_uri(home, config.tracking.uri)
    thread = ProjectorThread(Projector(uri, home), lambda: [to_project(row)])
    tags = {**data_lineage(config), "ftcluster.identity": identity(config)}
    changed = changes(from_dict(row.config), config)
    ledger.claim(row.name, this_process(), owner_check(take_over=take_over))
    outcome = Outcome(stopped=True)
    try:
        thread.start()
        if changed:
            note_changes(folder.path, config, changed, tell)
            ledger.set_state(row.name, RunState.RUNNING, config=to_dict(config), identity=identity(config))
        with stop_signals() as stop:
            job = Job(to_dict(config), row.folder, str(ready.prepared), None, tags)
            outcome = attempts.train(job, config, observe, stop, tell)
    except KeyboardInterrupt:  # asked a second time, while the step that was to be saved went on
        outcome = Outcome(stopped=True)
    finally:
        try:
            _close(row, folder, outcome, ledger, changed=bool(changed))
        finally:
            undelivered = thread.stop()
            remember_ids(ledger, [row], uri)
    if isinstance(outcome.error, RankLost):
        remedy = f"ftcluster train --resume {row.name}{home_option(home)}"
        raise Interrupted(f"{row.name} lost a process: {outcome.error.message}", remedy=remedy) from outcome.error
    if outcome.error:
        raise outcome.error
    if outcome.stopped:
        remedy = f"ftcluster train --resume {row.name}{home_option(home)}"
        saved = "and saved" if outcome.report else "at once; it goes on from its newest checkpoint"
        raise Interrupted(f"{row.name} was stopped {saved}", remedy=remedy)
    return TrainingResult(ledger.get(row.name), folder, undelivered, outcome.warnings)


def _close(row: RunRow, folder: RunFolder, outcome: Outcome, ledger: Ledger, *, changed: bool) -> None:
    """Tell the spool, then the ledger, how it ended; a config that ``changed`` is stored once more."""
    if outcome.report:
        ledger.record(outcome.report, outcome.report.step)
    if isinstance(outcome.error, RankLost):
        state, reason = RunState.INTERRUPTED, outcome.error.message
    elif outcome.error:
        state, reason = RunState.FAILED, str(outcome.error)
    elif outcome.stopped:
        state, reason = RunState.INTERRUPTED, "stopped by the user"
    else:
        state, reason = RunState.FINISHED, ""
    try:
        with closing(SpoolTracker(folder.path)) as tracker:
            if changed and folder.config.exists():
                tracker.artifact(folder.config)
            if state is RunState.FINISHED and folder.adapter.is_dir():
                tracker.artifact(folder.adapter, "adapter")
            if state is RunState.FINISHED and folder.model.is_dir():
                tracker.tags({"ftcluster.model_folder": str(folder.model)})
            tracker.state(state, reason)
            tracker.flush()
    finally:  # also with a full disk: the ledger may lie on another, and must not say that it still runs
        ledger.set_state(row.name, state, reason=reason)
