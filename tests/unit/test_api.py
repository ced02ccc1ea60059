"""The Python interface on sweeps made by hand; a real one runs in ``tests/integration/test_sweep_report.py``."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from report_samples import Trial, make_sweep, searched

import ftcluster
from ftcluster.contracts.trial import RunState
from ftcluster.errors import ConfigError, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger


def test_importing_it_imports_nothing_of_it() -> None:
    heavy = "{'ftcluster', 'torch', 'pandas', 'ray', 'mlflow'}"
    program = f"import ftcluster, sys; print(sorted(m for m in sys.modules if m.split('.')[0] in {heavy}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['ftcluster']"


def test_its_names_are_there_and_others_are_told() -> None:
    assert {"sweep", "open_sweep", "train", "runs_dataframe", "__version__"} <= set(dir(ftcluster))
    with pytest.raises(AttributeError, match="has no attribute 'swep'"):
        _ = ftcluster.swep


def test_a_sweep_can_be_called_also_after_parts_of_the_package_were_imported(tmp_path: Path) -> None:
    import_module("ftcluster.sweep.halving")
    with pytest.raises(ConfigError, match="no such sweep file"):
        ftcluster.sweep(tmp_path / "nowhere.yaml")


def test_trials_are_a_table_with_what_they_varied_and_what_became_of_them(tmp_path: Path) -> None:
    make_sweep(tmp_path, [*searched(4), Trial({"optim.lr": 9.0}, state=RunState.FAILED, reason="it diverged")])
    table = ftcluster.open_sweep("made", home=tmp_path).trials_dataframe()
    assert list(table["number"]) == [0, 1, 2, 3, 4]
    assert table["reason"][4] == "it diverged"
    assert table["eval/loss"].isna().tolist() == [False] * 4 + [True]
    finished = table[table["state"] == "finished"]
    assert finished[["step", "tokens", "seconds"]].values.tolist() == [[40, 4000, 40.0]]


def test_a_handle_tells_of_a_sweep_that_goes_on(tmp_path: Path) -> None:
    make_sweep(tmp_path, [Trial({"optim.lr": 1e-3}, [1.0], RunState.PAUSED)], end=None)
    found = ftcluster.open_sweep("made", home=tmp_path)
    assert (found.state, found.best()) == ("running", None)
    assert repr(found) == "<sweep made: running, 0 of 1 trials ended>"
    assert found.curves_dataframe()[["trial", "metric", "step", "value"]].values.tolist() == [
        ["made-000", "eval/loss", 10, 1.0]
    ]
    assert found.curves_dataframe("train/loss").columns.tolist() == ["trial", "metric", "step", "value", "time"]


def test_the_best_trial_has_no_result_before_it_is_written(tmp_path: Path) -> None:
    make_sweep(tmp_path, searched(8))
    best = ftcluster.open_sweep("made", home=tmp_path).best()
    assert best is not None
    assert best.metrics["eval/loss"] == ftcluster.runs_dataframe("state == finished", home=tmp_path)["eval/loss"].min()
    assert best.result is None


def test_runs_of_a_home_are_a_table_that_an_expression_narrows(tmp_path: Path) -> None:
    assert ftcluster.runs_dataframe("eval/loss < 2", home=tmp_path).empty
    make_sweep(tmp_path, searched(4))
    assert len(ftcluster.runs_dataframe(home=tmp_path)) == 5
    assert set(ftcluster.runs_dataframe("kind == trial and state == pruned", home=tmp_path)["state"]) == {"pruned"}


def test_only_sweeps_can_be_opened(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add(RunRow("alone", "train", str(tmp_path / "alone"), {}))
    with pytest.raises(UsageError, match="alone is a train, not a sweep"):
        ftcluster.open_sweep("alone", home=tmp_path)
    with pytest.raises(UsageError, match='there is no run "nothing"'):
        ftcluster.open_sweep("nothing", home=tmp_path)
