"""Writes one slice of a spool into one MLflow run; may be repeated with the same slice any number of times.

Owns the calls for params, metrics, artifacts, tags and status and their order. Does not know where the run
came from or how far its spool was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from ftcluster.contracts.metric import Metric
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
    tags, params = dict(part.tags), dict[str, str]()
    if part.params:
        params, changes = _compared(client, run_id, part)
        tags |= changes
    missing = [_shown(path, under) for path, under in part.artifacts if not _upload(client, run_id, path, under)]
    if missing:
        tags["ftcluster.missing_artifacts"] = as_text(", ".join(missing), LONGEST_TAG)
    if part.change:
        tags |= {"ftcluster.state": part.change.state.value, "ftcluster.reason": part.change.reason}
    _send(client, run_id, part.metrics, params, tags)
    if part.change:
        _set_status(client, run_id, part.change)


def send_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Any number of them."""
    _send(client, run_id, (), {}, tags)


def _send(
    client: MlflowClient, run_id: str, metrics: Iterable[Metric], params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    """In as few requests as MLflow's limits allow."""
    from mlflow.entities import Metric as MlflowMetric
    from mlflow.entities import Param, RunTag

    for points, values, texts in zip_longest(
        requests_of(metrics, METRICS_PER_REQUEST),
        requests_of(params.items(), TEXTS_PER_REQUEST),
        requests_of(tags.items(), TEXTS_PER_REQUEST),
        fillvalue=(),
    ):
        client.log_batch(
            run_id,
            metrics=[MlflowMetric(point.name, point.value, point.timestamp_ms, point.step) for point in points],
            params=[Param(key, value) for key, value in values],
            tags=[RunTag(key, value) for key, value in texts],
        )


def _compared(client: MlflowClient, run_id: str, part: Slice) -> tuple[dict[str, str], dict[str, str]]:
    """Params MLflow does not have yet; the tags that tell of those it has with another value.

    MLflow refuses to change a param, but a run may be resumed for longer or elsewhere.
    """
    known: dict[str, str] = dict(client.get_run(run_id).data.params)
    new: dict[str, str] = {}
    changes: dict[str, str] = {}
    for key, value in part.params:
        if key not in known:
            known[key] = new[key] = value
        elif known[key] != value:
            changes[f"ftcluster.changed.{key}"[:LONGEST_NAME]] = as_text(f"{known[key]} -> {value}", LONGEST_TAG)
    return new, changes


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
