"""What an earlier version wrote into a ledger is there for this one, and means the same."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from ftcluster.config.compose import from_dict
from ftcluster.contracts.trial import RunState
from ftcluster.ledger import schema
from ftcluster.ledger.process import is_alive, this_process
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.control import control, specification
from ftcluster.sweep.space import Space
from ftcluster.sweep.specification import read_space

TESTS = Path(__file__).parents[2]
FIRST = TESTS / "unit" / "ledger" / "ledger_0001.sql"  # a sweep of four trials, interrupted behind its first rung
TABLES = ("ftcluster_runs", "ftcluster_reports")


def contents(home: Path) -> dict[str, list[dict[str, Any]]]:
    with sqlite3.connect(home / "ledger.db") as file:
        file.row_factory = sqlite3.Row
        return {table: [dict(row) for row in file.execute(f"SELECT * FROM {table} ORDER BY 1, 2")] for table in TABLES}


def restore(home: Path) -> None:
    home.mkdir()
    with sqlite3.connect(home / "ledger.db") as file:
        file.executescript(FIRST.read_text())


def test_a_ledger_of_the_first_version_is_brought_up_to_date_and_loses_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    restore(home)
    before = contents(home)
    assert {table: len(rows) for table, rows in before.items()} == {"ftcluster_runs": 5, "ftcluster_reports": 4}
    with Ledger.open(home) as ledger:
        reports = ledger.reports("old")
        row = ledger.claim("old", this_process(), is_alive)
    after = contents(home)
    for table, rows in before.items():
        for old, new in zip(rows, after[table], strict=True):
            changed = {"state", "owner", "reason"} if old.get("name") == row.name else set()
            assert {key: new[key] for key in old.keys() - changed} == {key: old[key] for key in old.keys() - changed}
    with sqlite3.connect(home / "ledger.db") as file:
        assert file.execute("SELECT version_num FROM ftcluster_version").fetchall() == [(schema.VERSION,)]
    assert [(report.run, report.step) for report in reports] == [(f"old-0{number}", 6) for number in range(4)]
    assert row.state is RunState.RUNNING


def test_a_sweep_of_the_first_version_still_says_what_it_is(tmp_path: Path) -> None:
    restore(tmp_path / "home")
    with Ledger.open(tmp_path / "home") as ledger:
        row, trials = ledger.get("old"), ledger.runs(parent="old")
    spec = specification(row)
    assert (spec.sampler.name, spec.pruner.name, spec.pruner.eta, spec.budget.trials) == ("qmc", "halving", 2, 4)
    space = read_space(spec, from_dict(row.config["base"]))
    assert isinstance(space, Space)
    assert set(space) == {"optim.lr", "adapter.rank"}
    assert control(row).sweep.state == ""
    for trial in trials:
        config = from_dict(trial.config)
        assert (config.optim.lr, config.adapter.rank) == tuple(trial.overrides.values())
    states = [trial.state.value for trial in trials]
    assert states == ["interrupted", "pruned", "interrupted", "interrupted"]


def test_a_ledger_whose_making_was_killed_is_made_by_the_next(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from deaths import die_at_write\n"
        "from ftcluster.ledger.store import Ledger\n"
        "die_at_write(1, 'before')\n"
        "Ledger.open(sys.argv[2])"
    )
    died = subprocess.run([sys.executable, "-c", script, str(TESTS), str(tmp_path)], check=False)
    assert died.returncode == -9
    assert (tmp_path / "ledger.db").exists()
    with Ledger.open(tmp_path) as ledger:
        assert ledger.runs() == []
