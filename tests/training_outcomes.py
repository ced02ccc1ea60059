"""Whether MLflow tells of a run what its spool recorded: each (metric, step) once, none missing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ftcluster.tracking.history import read_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def the_mlflow_run(run: Path, store: Path | None = None) -> tuple[MlflowClient, Run]:
    """The one MLflow run of a training's folder, in the store of its home or in another."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store or run.parent / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.`ftcluster.run` = '{run.name}'")
    return client, found


def assert_run_told_once(run: Path, status: str = "FINISHED", store: Path | None = None) -> None:
    """Exactly one MLflow run for a training's folder, with this status, that tells what was recorded."""
    client, found = the_mlflow_run(run, store)
    assert found.info.status == status
    assert {"train/loss", "eval/loss"} <= read_metrics(run).keys()
    assert_points_told_once(client, found, run)


def assert_points_told_once(client: MlflowClient, told: Run, run: Path) -> None:
    """An MLflow run has the metrics of a run's folder, and each (metric, step) of them once."""
    points = read_metrics(run)
    assert points.keys() <= told.data.metrics.keys()
    for name, recorded in points.items():
        there = [(m.step, m.value) for m in client.get_metric_history(told.info.run_id, name)]
        assert sorted(there) == [(m.step, m.value) for m in recorded], f"{run.name} {name}"
        assert max(Counter(step for step, _ in there).values()) == 1, f"{run.name} {name}"
