"""How a trial of a sweep is ended or put aside: its own records first, then the ledger.

So a ledger that says it ended means that everything was recorded, and nothing is lost where records cannot be written.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.facts import Facts
from ftcluster.sweep.space import override_words
from ftcluster.tracking.spool import SpoolTracker

_AT_ONCE = 8


def cause(name: str, reason: str) -> str:
    """The first line of why a trial failed, without its name: alike for trials that failed alike."""
    return reason.partition("\n")[0].replace(name, "a trial")


def end(facts: Facts, trial: RunRow, state: RunState, reason: str = "") -> None:
    """Close a trial for good. What nothing can resume any more is removed; its result stays.

    Raises:
        StoreError: a disk is full or gone; the trial is as it was.
    """
    end_all(facts, [(trial, state, reason)])


def end_all(facts: Facts, ends: Sequence[tuple[RunRow, RunState, str]]) -> None:
    """``end`` for several: of all of them the ledger knows, or of none."""
    if not ends:
        return
    with ThreadPoolExecutor(_AT_ONCE) as threads:  # they wait for the disk, mostly
        for _ in threads.map(lambda each: _record_end(*each), ends):
            pass
    facts.set_states((trial.name, state, reason) for trial, state, reason in ends)
    for trial, state, _ in ends:
        if state in (RunState.FINISHED, RunState.PRUNED):
            shutil.rmtree(RunFolder(Path(trial.folder)).checkpoints, ignore_errors=True)


def _record_end(trial: RunRow, state: RunState, reason: str) -> None:
    folder = RunFolder(Path(trial.folder))
    with closing(SpoolTracker(folder.path)) as tracker:
        if folder.adapter.is_dir():
            tracker.artifact(folder.adapter, "adapter")
        if folder.model.is_dir():
            tracker.tags({"ftcluster.model_folder": str(folder.model)})
        tracker.tags({"ftcluster.overrides": " ".join(override_words(trial.overrides))})
        tracker.state(state, reason)
        tracker.flush()


def interrupt(facts: Facts, trial: RunRow, reason: str) -> None:
    """Put a trial aside; it goes on from its newest checkpoint.

    Raises:
        StoreError: a disk is full or gone; the trial is as it was, for the next command to find.
    """
    with closing(SpoolTracker(Path(trial.folder))) as tracker:
        tracker.state(RunState.INTERRUPTED, reason)
    facts.set_state(trial.name, RunState.INTERRUPTED, reason=reason)
