"""``ftcluster runs`` on a real ledger with a real, embedded MLflow."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from comparison_samples import finished_sweep

from ftcluster.cli import main
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.process import Owner
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.projection import read_slices
from ftcluster.tracking.spool import SpoolTracker


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path) -> Path:
    """The sweep "rates", never delivered, and the training "lost" whose process is gone."""
    folder = tmp_path_factory.mktemp("home")
    finished_sweep(folder, tiny_qwen2)
    with Ledger.open(folder) as ledger:
        config = {**ledger.get("rates-0").config, "seed": 99}
        ledger.add(RunRow("lost", "train", str(folder / "lost"), config))
        owner = Owner(socket.gethostname(), 1, 0.0, "an earlier boot")
        ledger.set_state("lost", RunState.RUNNING, owner=owner)
    return folder


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*words: str) -> str:
        assert main(["runs", *words, "--home", str(home)]) == 0
        return capsys.readouterr().out

    return command


def test_sweeps_and_trainings_are_listed_without_the_trials(run: Any) -> None:
    assert {row["name"] for row in json.loads(run("--json"))} == {"rates", "lost"}


def test_a_sweeps_name_lists_its_trials_with_their_metrics(run: Any) -> None:
    rows = json.loads(run("rates", "--json"))
    assert [row["name"] for row in rows] == ["rates-0", "rates-1", "rates-2"]
    assert all(row["metrics"]["eval/loss"] > 0 for row in rows)
    assert "below the cut after step 4" in " ".join(run("rates").split())


def test_a_state_narrows_the_list(run: Any) -> None:
    assert [row["name"] for row in json.loads(run("rates", "--state", "pruned", "--json"))] == ["rates-2"]
    assert "none in that state" in run("--state", "killed")


def test_a_limit_keeps_the_newest(run: Any) -> None:
    assert [row["name"] for row in json.loads(run("--limit", "1", "--json"))] == ["lost"]


def test_a_run_whose_process_is_gone_is_interrupted_everywhere(run: Any, home: Path) -> None:
    (row,) = [row for row in json.loads(run("--json")) if row["name"] == "lost"]
    assert (row["state"], "ended without a word" in row["reason"]) == ("interrupted", True)
    (part,) = read_slices(home / "lost", 0)
    assert part.change is not None
    assert part.change.state is RunState.INTERRUPTED


def test_show_tells_how_to_go_on_and_what_the_config_changes(run: Any, home: Path) -> None:
    found = json.loads(run("show", "lost", "--json"))
    assert found["next"] == f"ftcluster train --resume lost --home {home}"
    assert found["settings"]["seed"] == 99
    assert "optim.beta1" not in found["settings"]


def test_show_names_data_overrides_and_reports_of_a_trial(run: Any, home: Path) -> None:
    found = json.loads(run("show", "rates-1", "--json"))
    assert found["settings"] == {"optim.lr": 0.01}
    assert found["data"].startswith(str(home / "prepared"))
    assert [report["step"] for report in found["reports"]] == [4]
    assert "optim.lr" in run("show", "rates-1")


def test_show_of_a_sweep_gives_its_spec_and_what_to_do_next(run: Any) -> None:
    found = json.loads(run("show", "rates", "--json"))
    assert found["settings"]["metric"] == "eval/loss"


@pytest.mark.slow
def test_sync_delivers_what_mlflow_is_missing_once(run: Any, home: Path) -> None:
    (first,) = json.loads(run("sync", "--json"))
    assert first["metric_points"] > 3 * 4
    assert first["pending"] == 0
    assert "up to date" in run("sync")
    assert json.loads(run("show", "rates-1", "--json"))["mlflow_run_id"]
    tracker = SpoolTracker(home / "rates" / "rates-0")
    tracker.metrics({"train/loss": 1.0}, 99)
    tracker.close()
    assert "delivered 1 records, 1 of them metric points" in run("sync")


def test_sync_with_mlflow_away_says_what_waits_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    with Ledger.open(home) as ledger, Ledger.open(tmp_path) as other:
        config = {**ledger.get("rates-0").config, "tracking": {"uri": "http://127.0.0.1:9"}}
        other.add(RunRow("away", "train", str(tmp_path / "away"), config))
    tracker = SpoolTracker(tmp_path / "away")
    tracker.metrics({"train/loss": 1.0}, 1)
    tracker.close()
    assert main(["runs", "sync", "--home", str(tmp_path)]) == 7
    told = capsys.readouterr()
    assert "1 still wait" in told.out
    assert "the records are kept" in told.err


def test_an_empty_home_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--home", str(tmp_path)]) == 0
    assert "no runs yet" in capsys.readouterr().out


def test_an_unknown_name_is_a_usage_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", "rate-1", "--home", str(home)]) == 2
    assert "rates-1" in capsys.readouterr().err


def test_a_training_is_listed_by_its_name_without_a_heading_of_trials(run: Any) -> None:
    assert "trials of" not in run("lost")
    assert "trials of rates" in run("rates")


def test_a_sweep_without_trials_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add(RunRow("bare", "sweep", str(tmp_path / "bare"), {}))
    assert main(["runs", "bare", "--home", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "bare has no trials\n"
