"""A run that goes on in another way: what its records tell of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from ftcluster.config.identity import identity
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.folder import RunFolder
from ftcluster.engine import checkpoint
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.memory_record import change_memory


def note_changes(folder: Path, after: RunConfig, changed: Mapping[str, str], tell: Callable[[str], None]) -> None:
    """Tags, since MLflow keeps the params a run began with: ``ftcluster.resumed.STEP.KEY``.

    ``tell`` hears of damaged checkpoints.

    Raises:
        StoreError: the folder cannot be written, or another process is writing this run.
    """
    with closing(SpoolTracker(folder)) as tracker:

        def warn(text: str) -> None:
            tell(text)
            tracker.tags({"ftcluster.warning": text})

        newest = checkpoint.newest(RunFolder(folder).checkpoints, warn)
        step = checkpoint.step_of(newest) if newest else 0
        told = {f"ftcluster.resumed.{step}.{key}": value for key, value in changed.items()}
        tracker.tags({"ftcluster.identity": identity(after), **told})
        tracker.flush()
    # What is known of its memory is about the way before: a micro-batch that did not fit may do so now.
    change_memory(folder, predicted=0, measured=0, halved=0)
