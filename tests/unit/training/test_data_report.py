"""The report on the data stops a run that it should stop, and stays with the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from training_samples import World

from ftcluster.cli import main
from ftcluster.config.compose import compose
from ftcluster.config.schema import RunConfig
from ftcluster.errors import DataError
from ftcluster.training.bench import prepare_data


@pytest.fixture
def marked(world: World, tmp_path: Path) -> RunConfig:
    """A config whose every tenth row holds a marker of a chat template."""
    rows = [json.loads(line) for line in world.rows.read_text(encoding="utf-8").splitlines()]
    for row in rows[::10]:
        row["answer"] = f"[INST] {row['answer']}"
    file = tmp_path / "marked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return compose([*world.words(), f"home={tmp_path}", f"data.train=[{file}]"])


def test_a_finding_above_its_threshold_refuses_the_data_and_another_threshold_prepares_nothing_again(
    marked: RunConfig,
) -> None:
    folder = prepare_data(marked).folder
    strict = replace(marked, data=replace(marked.data, refuse={"markers": 0.05}))
    with pytest.raises(DataError, match=r"the data is refused:\n  markers: \d+ of \d+ rows \(10.0 %\)"):
        prepare_data(strict)
    assert [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] == [folder.name]


@pytest.mark.slow
def test_a_run_keeps_the_report_on_its_data_as_a_page_and_as_json(world: World, tmp_path: Path) -> None:
    assert main(world.arguments(tmp_path, "optim.duration=1 steps", "name=short")) == 0
    page = (tmp_path / "short" / "data.html").read_text(encoding="utf-8")
    assert "rows.jsonl" in page
    assert "tokens of an epoch" in page
    spool = (tmp_path / "short" / "spool.jsonl").read_text(encoding="utf-8")
    assert "data.html" in spool
    assert "report.json" in spool
