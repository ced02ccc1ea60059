"""What runs tell the ledger besides their course."""

from __future__ import annotations

import json
from pathlib import Path

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.bookmark import BOOKMARK
from ftcluster.training.records import reap


def _ended(ledger: Ledger, home: Path, name: str, bookmark: object = None) -> Path:
    folder = home / name
    folder.mkdir()
    ledger.add(RunRow(name=name, kind="train", folder=str(folder), config={}, identity=name))
    ledger.set_state(name, RunState.RUNNING)
    ledger.set_state(name, RunState.FINISHED)
    if bookmark:
        (folder / BOOKMARK).write_text(json.dumps(bookmark))
    return folder


def test_ids_that_a_killed_process_did_not_write_down_are_found_by_the_next_command(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        _ended(ledger, tmp_path, "told", {"uri": "sqlite:///m.db", "run_id": "a1", "offset": 0})
        _ended(ledger, tmp_path, "never-delivered")
        _ended(ledger, tmp_path, "damaged", {"uri": "sqlite:///m.db"})
        reap(ledger)
        assert [ledger.get(name).mlflow_run_id for name in ("told", "never-delivered", "damaged")] == ["a1", None, None]
        assert ledger.find("a1").name == "told"
        assert set(ledger.ended_without_mlflow()) == {"never-delivered", "damaged"}
