"""What became of a sweep, in a form that two of them can be compared by, and whether MLflow says the same."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from training_outcomes import assert_points_told_once
from training_samples import Curves, curves, result_bytes

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger


class Ended(NamedTuple):
    """A trial at its end."""

    state: str
    step: int
    metrics: dict[str, float]
    points: Curves
    weights: dict[str, bytes]


def outcome(home: Path, sweep: str) -> dict[str, Ended]:
    """Every trial of a finished sweep, by name."""
    with Ledger.open(home) as ledger:
        rows = ledger.runs(parent=sweep)
        assert ledger.get(sweep).state is RunState.FINISHED
    return {
        row.name: Ended(
            row.state.value,
            row.step,
            dict(row.metrics),
            curves(Path(row.folder)),
            result_bytes(Path(row.folder)),
        )
        for row in rows
    }


def assert_told_once(home: Path, sweep: str) -> None:
    """One MLflow run per trial under one parent, all ended, each (metric, step) in it once and equal to the spool."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name(sweep)
    assert experiment is not None
    told = client.search_runs([experiment.experiment_id], max_results=50_000)
    runs = {run.data.tags["ftcluster.run"]: run for run in told}
    with Ledger.open(home) as ledger:
        trials = ledger.runs(parent=sweep)
    assert len(told) == len(trials) + 1 == len(runs), f"{len(told)} runs of {len(runs)} names, {len(trials)} trials"
    for trial in trials:
        run = runs[trial.name]
        assert run.info.run_id == trial.mlflow_run_id
        assert run.data.tags["mlflow.parentRunId"] == runs[sweep].info.run_id
        assert (run.info.status, run.data.tags["ftcluster.state"]) == ("FINISHED", trial.state.value)
        assert_points_told_once(client, run, Path(trial.folder))
