"""The demo from beginning to end, as `make demo` runs it; its figures are those the README promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.whole


def test_the_demo_makes_compares_and_promotes_an_adapter_that_works_without_ftcluster(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "ftcluster", "demo", "--json", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["base_exact_match"] < 0.05
    assert result["champion_exact_match"] > 0.70
    assert result["plain_exact_match"] == result["champion_exact_match"]
    assert Path(result["page"]).stat().st_size > 100_000
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    champion = client.get_model_version_by_alias("tool-calls", "champion")
    assert client.get_run(champion.run_id).data.tags["ftcluster.run"] == result["champion"]
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments)
    assert len(runs) == 1 + 1 + 9  # pre-training, sweep, trials
    assert {run.info.status for run in runs} == {"FINISHED"}
