"""Writes one slice of a spool into one MLflow run; may be repeated with the same slice any number of times.

Owns the calls for params, metrics, artifacts, tags and status and their order. Does not know where the run
came from or how far its spool was read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ftcluster.tracking.projection import (
    LONGEST_NAME,
    LONGEST_TAG,
    METRICS_PER_REQUEST,
    MLFLOW_STATUS,
    TEXTS_PER_REQUEST,
    Slice,
    StateChange,
    as_text,
    requests_of,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


def send_slice(client: MlflowClient, run_id: str, part: Slice) -> None:
    """One slice, its state last: a run that reads as finished in MLflow has everything recorded before."""
    from mlflow.entities import Metric as MlflowMetric

    tags = dict(part.tags)
    if part.params:
        tags |= _send_params(client, run_id, part)
    for points in requests_of(part.metrics, METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=[MlflowMetric(p.name, p.value, p.timestamp_ms, p.step) for p in points])
    missing = [_shown(path, under) for path, under in part.artifacts if not _upload(client, run_id, path, under)]
    if missing:
        tags["ftcluster.missing_artifacts"] = as_text(", ".join(missing), LONGEST_TAG)
    if part.change:
        tags |= {"ftcluster.state": part.change.state.value, "ftcluster.reason": part.change.reason}
    _send_tags(client, run_id, tags)
    if part.change:
        _set_status(client, run_id, part.change)


def _send_params(client: MlflowClient, run_id: str, part: Slice) -> dict[str, str]:
    """Params MLflow does not have yet; the tags that tell of those it has with another value.

    MLflow refuses to change a param, but a run may be resumed for longer or elsewhere.
    """
    from mlflow.entities import Param

    known: dict[str, str] = dict(client.get_run(run_id).data.params)
    new: dict[str, str] = {}
    changes: dict[str, str] = {}
    for key, value in part.params:
        if key not in known:
            known[key] = new[key] = value
        elif known[key] != value:
            changes[f"ftcluster.changed.{key}"[:LONGEST_NAME]] = as_text(f"{known[key]} -> {value}", LONGEST_TAG)
    for texts in requests_of(new.items(), TEXTS_PER_REQUEST):
        client.log_batch(run_id, params=[Param(key, value) for key, value in texts])
    return changes


def _send_tags(client: MlflowClient, run_id: str, tags: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    for texts in requests_of(tags.items(), TEXTS_PER_REQUEST):
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in texts])


def _upload(client: MlflowClient, run_id: str, path: Path, under: str) -> bool:
    """False where the artifact is no longer there: it must not hold up everything behind it."""
    if path.is_dir():
        client.log_artifacts(run_id, str(path), under or path.name)
    elif path.is_file():
        client.log_artifact(run_id, str(path), under or None)
    else:
        return False
    return True


def _shown(path: Path, under: str) -> str:
    return f"{under}/{path.name}" if under else path.name


def _set_status(client: MlflowClient, run_id: str, change: StateChange) -> None:
    status = MLFLOW_STATUS[change.state]
    if status == "RUNNING":
        client.update_run(run_id, status)  # also re-opens a run that is resumed
    else:
        client.set_terminated(run_id, status, change.timestamp_ms)
