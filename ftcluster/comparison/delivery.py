"""Hands a page about a sweep to its MLflow run.

It goes there the way everything does, through the sweep's spool: a server that is away, or a sweep that is still being
written by its driver, costs nothing but the copy there.
"""

from __future__ import annotations

from pathlib import Path

from ftcluster.errors import StoreError, TrackingError
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.records import deliver, store_uri


def hand_over(ledger: Ledger, sweep: str, path: Path, home: Path) -> str:
    """Record a page with its sweep, and deliver it if MLflow is there; otherwise say why it waits."""
    row = ledger.get(sweep)
    try:
        tracker = SpoolTracker(Path(row.folder))
    except StoreError as error:
        return f"the report is not in MLflow: {error.message}"
    try:
        tracker.artifact(path)
        tracker.flush()
    finally:
        tracker.close()
    try:
        deliver(ledger, [row], home, store_uri(home, row.config["base"]["tracking"]["uri"]))
    except TrackingError as error:
        return f"the report waits for MLflow ({error.message}); ftcluster runs sync delivers it"
    return ""
