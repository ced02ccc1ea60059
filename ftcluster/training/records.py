"""From ledger rows to what MLflow is shown: which experiment, which parent, and the delivery of what is pending."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from ftcluster.config.environment import tracking_uri as chosen_uri
from ftcluster.contracts.trial import RunState
from ftcluster.errors import StoreError
from ftcluster.ledger.process import Owner, is_alive
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.bookmark import known_run_id, read_bookmark
from ftcluster.tracking.mlflow_store import tracking_uri
from ftcluster.tracking.projector import Projector, RunToProject
from ftcluster.tracking.redaction import hide_url_users
from ftcluster.tracking.spool import SpoolTracker

DEFAULT_EXPERIMENT = "ftcluster"


def store_uri(home: Path, configured: str) -> str:
    """The MLflow store of a home: the config's, the environment's, else SQLite inside it."""
    return tracking_uri(home, chosen_uri(configured))


def to_project(row: RunRow) -> RunToProject:
    """A sweep and its trials share an experiment of the sweep's name; a training goes to its config's."""
    if row.kind == "train":
        experiment = row.config.get("tracking", {}).get("experiment", DEFAULT_EXPERIMENT)
    else:
        experiment = row.parent or row.name
    return RunToProject(row.name, Path(row.folder), row.parent, experiment, row.kind)


def remember_ids(ledger: Ledger, rows: Iterable[RunRow], uri: str) -> None:
    """Write into the ledger under which id MLflow knows each run, so that users may name runs by it."""
    ids = {}
    for row in rows:
        bookmark = read_bookmark(Path(row.folder), hide_url_users(uri))
        if bookmark and bookmark.run_id != row.mlflow_run_id:
            ids[row.name] = bookmark.run_id
    ledger.remember_mlflow(ids)


def reap(ledger: Ledger) -> list[RunRow]:
    """Mark runs whose process is gone as interrupted, for MLflow first: nothing stays RUNNING for ever.

    Runs that ended, whose process was killed before it wrote down their ids in MLflow, get those too.
    """
    unknown = ledger.ended_without_mlflow()
    found = {name: run_id for name, folder in unknown.items() if (run_id := known_run_id(Path(folder)))}
    ledger.remember_mlflow(found)

    def tell(row: RunRow, reason: str) -> bool:
        # A trial's host may outlive its driver by a moment and still hold the spool: the next reaper's then.
        try:
            with closing(SpoolTracker(Path(row.folder))) as tracker:
                tracker.state(RunState.INTERRUPTED, reason)
        except StoreError:
            return False
        return True

    return ledger.reap(is_alive, tell)


def owner_check(*, take_over: bool) -> Callable[[Owner], bool | None]:
    """Whether a run's owner lives; ``take_over``: one on a host nobody can ask counts as gone."""
    return (lambda owner: bool(is_alive(owner))) if take_over else is_alive


def deliver(ledger: Ledger, rows: Iterable[RunRow], home: Path, uri: str) -> tuple[int, int]:
    """Bring MLflow up to date with these runs now; returns metric points delivered and records still pending.

    Raises:
        TrackingError: MLflow is away; everything stays in the spools.
    """
    rows = list(rows)
    projector = Projector(uri, home)
    done = [projector.deliver(to_project(row)) for row in rows]
    remember_ids(ledger, rows, uri)
    return sum(d.points for d in done), sum(d.pending for d in done)
