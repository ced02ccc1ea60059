"""Runs as flat records: which an expression means, their order, tables and files of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_samples import START, Trial, make_sweep

from ftcluster.cli import main
from ftcluster.contracts.trial import RunState
from ftcluster.errors import ConfigError, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.report.frames import export, frame
from ftcluster.report.records import Record, filtered, ordered, record

TRIALS = [
    Trial({"optim.lr": 1e-3, "adapter.rank": 4}, [3.0, 2.5]),
    Trial(
        {"optim.lr": 1e-2, "adapter.rank": 8, "adapter.targets": ["q_proj", "注意力"]},
        [1.5],
        RunState.PRUNED,
        "cut, 早停",
    ),
    Trial({"optim.lr": 5e-3, "adapter.rank": 16}, [1.0, 0.9, 0.8]),
    Trial({"optim.lr": 9.0, "adapter.rank": 16}, [], RunState.FAILED, "it diverged"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    make_sweep(folder, TRIALS)
    make_sweep(folder, TRIALS[:1], name="other")
    with Ledger.open(folder) as ledger:
        ledger.add(RunRow("alone", "train", str(folder / "alone"), ledger.get("made-000").config))
    return folder


@pytest.fixture(scope="module")
def records(home: Path) -> list[Record]:
    with Ledger.open(home) as ledger:
        return [record(row, START) for row in ledger.runs(parent="made")]


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*words: str) -> str:
        assert main(["runs", *words, "--home", str(home)]) == 0
        return capsys.readouterr().out

    return command


def names(found: list[Record]) -> list[int]:
    return [one["number"] for one in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eval/loss < 2", [1, 2]),
        ("eval/loss < 2 and state == finished and adapter.rank >= 8", [2]),
        ("not eval/loss < 2", [0, 3]),
        ("eval/loss < 1 or state == failed", [2, 3]),
        ("state in [pruned, failed]", [1, 3]),
        ("state != finished", [1, 3]),
        ("adapter.rank * 2 == 16", [1]),
        ("2 * eval/loss - 1 < 1", [2]),
        ("1 <= eval/loss <= 2.5", [0, 1]),
        ("'diverged' in reason", [3]),
        ('name == "made-002" or sweep == "nothing"', [2]),
        ("'注意力' in adapter.targets", [1]),
        ("kind == sweep", []),
        ("kind == trial", [0, 1, 2, 3]),
        ("optim.schedule == 'cosine' and step > 10", [0, 2]),
        ("step / 2 == 20", [2]),
    ],
)
def test_an_expression_chooses_runs(records: list[Record], text: str, expected: list[int]) -> None:
    assert names(filtered(records, text)) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("eval/lss < 2", "eval/loss"),
        ("adapter.rnk >= 8", "adapter.rank"),
        ("state == finnished", "Text stands in quotes"),
        ("__import__('os').system('true')", "only len, min, max, abs can be called"),
        ("eval/loss <", "cannot be read"),
        ("name.__class__ == 1", "is not a key of these runs"),
        ("[x for x in name]", "is not allowed"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_keys_there_are(records: list[Record], text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        filtered(records, text)
    assert told in str(caught.value)
    assert "keys are name, kind, sweep" in caught.value.remedy
    assert "eval/loss" in caught.value.remedy


def test_runs_are_sorted_by_any_key_with_the_unmeasured_last(records: list[Record]) -> None:
    assert names(ordered(records, "eval/loss")) == [2, 1, 0, 3]
    assert names(ordered(records, "eval/loss", reverse=True)) == [0, 1, 2, 3]
    assert names(ordered(records, "state")) == [3, 0, 2, 1]
    with pytest.raises(UsageError, match=r"optim\.lrr is not a key.*optim\.lr"):
        ordered(records, "optim.lrr")


def test_the_command_filters_sorts_and_shows_what_is_asked_for(run: Any) -> None:
    words = ("made", "--filter", "step > 0", "--sort", "eval/loss", "--columns", "name, eval/loss, optim.lr")
    assert json.loads(run(*words, "--json")) == [
        {"name": "made-002", "eval/loss": 0.8, "optim.lr": 5e-3},
        {"name": "made-001", "eval/loss": 1.5, "optim.lr": 1e-2},
        {"name": "made-000", "eval/loss": 2.5, "optim.lr": 1e-3},
    ]
    assert [line.split()[:2] for line in run(*words).splitlines()[1:]] == [
        ["made-002", "0.8"],
        ["made-001", "1.5"],
        ["made-000", "2.5"],
    ]


def test_without_a_sweep_its_trials_are_there_where_all_are_asked_for(run: Any) -> None:
    assert {row["name"] for row in json.loads(run("--json"))} == {"made", "other", "alone"}
    found = json.loads(run("--all", "--sort", "eval/loss", "--limit", "2", "--filter", "kind == trial", "--json"))
    assert [row["name"] for row in found] == ["made-002", "made-001"]


def test_a_list_of_sweeps_still_counts_their_trials(run: Any) -> None:
    assert "4/4 trials" in run()


def test_a_limit_takes_the_first_of_what_is_sorted(run: Any) -> None:
    found = json.loads(run("made", "--sort", "eval/loss", "--limit", "2", "--json"))
    assert [row["name"] for row in found] == ["made-002", "made-001"]
    assert len(json.loads(run("made", "--json"))) == 4


def test_a_setting_that_is_sorted_by_is_shown(run: Any) -> None:
    heading, *rows = run("made", "--sort", "optim.lr").splitlines()[1:]
    assert heading.split()[-1] == "optim.lr"
    assert [row.split()[-1] for row in rows] == ["0.001", "0.005", "0.01", "9"]


def test_no_run_of_which_it_is_true_is_said(run: Any) -> None:
    assert "none of which that is true" in run("made", "--filter", "step > 1000")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_for_other_programs_has_every_key(run: Any, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"runs.{ending}"
    run("made", "--export", str(file))
    table = pd.read_csv(file) if ending == "csv" else pd.read_parquet(file)
    assert list(table["name"]) == ["made-000", "made-001", "made-002", "made-003"]
    assert list(table["optim.lr"]) == [1e-3, 1e-2, 5e-3, 9.0]
    assert table["eval/loss"].isna().tolist() == [False, False, False, True]
    assert json.loads(table["adapter.targets"][1]) == ["q_proj", "注意力"]
    assert table["reason"][1] == "cut, 早停"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_values_of_several_kinds_fit_into_one_column(tmp_path: Path) -> None:
    export([{"a": 1}, {"a": "text"}, {"a": None}, {"a": [1, "x"]}], tmp_path / "a.parquet")
    assert pd.read_parquet(tmp_path / "a.parquet")["a"].tolist()[:2] == ["1", "text"]


def test_an_ending_that_is_no_table_and_a_place_that_cannot_be_written_are_told(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "--export", "runs.xls", "--home", str(home)]) == 2
    assert "end it with .csv or .parquet" in capsys.readouterr().err
    assert main(["runs", "--export", str(tmp_path / "no" / "runs.csv"), "--home", str(home)]) == 6
    assert "name another place" in capsys.readouterr().err


def test_an_unknown_column_is_told_before_anything_is_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["runs", "--columns", "nam", "--export", str(tmp_path / "runs.csv"), "--home", str(home)]
    assert main(words) == 2
    assert "name" in capsys.readouterr().err
    assert not (tmp_path / "runs.csv").exists()


def test_a_frame_has_a_row_per_record_and_the_columns_asked_for(records: list[Record]) -> None:
    assert frame(records, ["name", "eval/loss"]).columns.tolist() == ["name", "eval/loss"]
    assert frame([]).empty
