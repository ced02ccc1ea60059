"""Brings MLflow up to date with the spools of runs, each record exactly once.

Owns finding or creating the MLflow run of a run, and the bookmark. Does not own when that happens (``service``
does), what is recorded (the spool does) or how one slice is written (``delivery`` does).

Why nothing doubles, wherever a process or server is killed: a run is looked up by its tags before it is
created; metrics carry the time they were recorded, and MLflow takes an equal point once; a param that is there
already is not sent again; tags, artifacts and states replace themselves. So a slice of the spool may be
delivered any number of times, and the bookmark moves behind it only after it was.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from platform import node
from typing import TYPE_CHECKING

from ftcluster.tracking.bookmark import Bookmark, count_pending, read_bookmark
from ftcluster.tracking.delivery import send_slice, send_tags
from ftcluster.tracking.mlflow_store import artifact_root, mlflow_errors, open_client, prepare_store
from ftcluster.tracking.projection import read_slices
from ftcluster.tracking.records import SPOOL, read_lines
from ftcluster.tracking.redaction import hide_url_users

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "ftcluster.run"
HOME_TAG = "ftcluster.home"
_PATIENCE = 2.0  # seconds to wait for another projector of the same home


@dataclass(frozen=True)
class RunToProject:
    """A run as MLflow shall show it; ``name`` and ``parent`` are run names, unique within a home."""

    name: str
    folder: Path
    parent: str | None
    experiment: str
    kind: str  # train | trial | sweep


@dataclass(frozen=True)
class Delivery:
    """Metric points MLflow took just now, records of any kind still waiting, and why they wait."""

    points: int
    pending: int
    note: str = ""


class Projector:
    """Delivers the spools of one home to one MLflow. Imports MLflow at the first delivery, not before."""

    def __init__(self, uri: str, home: Path) -> None:
        self._uri = uri
        self._shown_uri = hide_url_users(uri)
        self._home = home
        self._client: MlflowClient | None = None
        self._seen: dict[str, str] = {}  # run name -> MLflow run id, known to be there

    def pending(self, run: RunToProject) -> int:
        """Records of a run that MLflow does not have yet; does not talk to MLflow."""
        return count_pending(run.folder, self._shown_uri)

    def deliver(self, run: RunToProject) -> Delivery:
        """Deliver what is new in a run's spool; cheap when nothing is.

        Raises:
            TrackingError: MLflow is away or refused something; what was not delivered stays in the spool.
        """
        waiting = self.pending(run)
        if not waiting:
            return Delivery(0, 0)
        with self._only_projector() as other:
            if other:
                return Delivery(0, waiting, note=f"{other} is delivering this home's runs")
            try:
                with mlflow_errors(self._shown_uri):
                    return self._deliver(run)
            except BaseException:
                self._seen.clear()  # whether runs are still there is asked again at the next try
                raise

    def _deliver(self, run: RunToProject) -> Delivery:
        if self._client is None:
            prepare_store(self._uri)
            self._client = open_client(self._uri)
        client, bookmark = self._client, self._current_bookmark(self._client, run)
        points = 0
        for part in read_slices(run.folder, bookmark.offset):
            send_slice(client, bookmark.run_id, part)
            bookmark = replace(bookmark, offset=part.end)
            bookmark.save(run.folder)
            points += len(part.metrics)
        return Delivery(points, 0)

    def _current_bookmark(self, client: MlflowClient, run: RunToProject) -> Bookmark:
        bookmark = read_bookmark(run.folder, self._shown_uri)
        if bookmark and (run.name in self._seen or _is_there(client, bookmark.run_id)):
            self._seen[run.name] = bookmark.run_id
            return bookmark
        born = next((line.record["t"] for line in read_lines(run.folder / SPOOL) if line.record), 0)
        experiment_id = _find_or_create_experiment(client, run.experiment, artifact_root(self._uri))
        tags = {"ftcluster.kind": run.kind}
        if run.parent:
            tags["mlflow.parentRunId"] = self._find_or_create_run(client, run.parent, experiment_id, born, {})
        run_id = self._find_or_create_run(client, run.name, experiment_id, born, tags)
        bookmark = Bookmark(self._shown_uri, run_id)
        bookmark.save(run.folder)
        return bookmark

    def _find_or_create_run(
        self, client: MlflowClient, name: str, experiment_id: str, born_ms: int, tags: Mapping[str, str]
    ) -> str:
        """Also used for a parent that was not delivered yet: its own delivery finds it and adds its tags."""
        if name in self._seen:
            run_id = self._seen[name]
        else:
            identity = {RUN_TAG: name, HOME_TAG: self._home_id()}
            condition = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in identity.items())
            found = client.search_runs([experiment_id], condition, max_results=1)
            if not found:
                born_with = {**identity, "mlflow.source.name": "ftcluster", **tags}
                found = [client.create_run(experiment_id, born_ms, tags=born_with, run_name=name)]
                tags = {}
            run_id = self._seen[name] = found[0].info.run_id
        send_tags(client, run_id, tags)
        return run_id

    def _home_id(self) -> str:
        """Keeps runs of the same name apart that come from different homes to one server."""
        path = self._home / "home.id"
        if not path.exists():
            draft = path.with_suffix(".tmp")
            draft.write_text(uuid.uuid4().hex, encoding="ascii")
            draft.replace(path)
        return path.read_text(encoding="ascii")

    @contextmanager
    def _only_projector(self) -> Iterator[str]:
        """Yields an empty text holding the home's lock, or, after some patience, who holds it."""
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "projector.lock").open("a+", encoding="utf-8") as lock:
            deadline = time.monotonic() + _PATIENCE
            while not _try_lock(lock.fileno()):
                if time.monotonic() > deadline:
                    lock.seek(0)
                    yield lock.read().strip() or "another process"
                    return
                time.sleep(0.02)
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {node()}")
            lock.flush()
            yield ""


def _try_lock(file_number: int) -> bool:
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(client: MlflowClient, run_id: str) -> bool:
    """False for a run that was deleted in MLflow, or whose store was replaced by a new one."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _find_or_create_experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return str(client.get_experiment_by_name(name).experiment_id)  # another home was faster
