"""Comparisons of real runs: a small sweep trained in this process, two trainings, their ledger and their data."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from comparison_samples import finished_sweep, run_config, train_run

from ftcluster.cli import main
from ftcluster.comparison.compare import compare
from ftcluster.comparison.gather import gather
from ftcluster.comparison.order import LONGEST_CURVE, thinned
from ftcluster.contracts.metric import Metric
from ftcluster.contracts.trial import RunState
from ftcluster.errors import DataError, StoreError, UsageError
from ftcluster.evaluation.record import TestLimits
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.records import SPOOL, read_lines
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.worker import Worker

LIMITS = TestLimits(rows=10, answers=4)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path) -> Path:
    """A home with the sweep "rates"; tests may add runs, not change it."""
    folder = tmp_path_factory.mktemp("home")
    finished_sweep(folder, tiny_qwen2)
    return folder


@pytest.fixture
def ledger(home: Path) -> Ledger:
    return Ledger.open(home)


def test_a_sweep_is_ranked_by_its_metric_and_the_best_are_tested(ledger: Ledger) -> None:
    found = gather(ledger, ["rates"], top=1, limits=LIMITS)
    assert [c.name for c in found.contenders] == ["rates-1", "rates-0", "rates-2"]
    assert [c.name for c in found.tested] == ["rates-1"]
    assert (found.metric, found.varied, found.log_keys) == ("eval/loss", ("optim.lr",), {"optim.lr"})


def test_records_of_base_and_trials_are_of_the_same_rows_and_judged_against_each_other(ledger: Ledger) -> None:
    found = gather(ledger, ["rates"], limits=LIMITS)
    best, second = found.contenders[:2]
    assert found.base is not None
    assert best.record is not None
    assert best.record.prompts == found.base.prompts
    assert best.against_base is not None
    assert best.against_base.loss.verdict == "better"
    assert best.against_best is None
    assert second.against_best is not None
    assert second.against_best.reference == best.name


def test_curves_speed_and_rungs_come_from_spool_and_ledger(ledger: Ledger) -> None:
    first = gather(ledger, ["rates"], limits=LIMITS).contenders[0]
    assert [step for step, _ in first.curves["train/loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in first.curves["eval/loss"]] == [2, 4]
    assert first.rungs == ((4, first.score),)
    assert first.tokens_per_s is not None
    assert first.tokens_per_s > 0


def test_facts_name_data_base_and_code(ledger: Ledger) -> None:
    found = gather(ledger, ["rates"], limits=LIMITS)
    assert found.base is not None
    assert found.facts["prepared data"] == found.base.data
    assert "c0ffee" in found.facts["code"]
    assert found.facts["measured on"] == "10 test rows, greedy answers to 4 of them"


def test_progress_names_what_is_being_tested(ledger: Ledger) -> None:
    heard: list[tuple[str, int, int]] = []
    gather(ledger, ["rates"], top=2, limits=LIMITS, announce=lambda *news: heard.append(news))
    assert heard == [("base", 0, 3), ("rates-1", 1, 3), ("rates-0", 2, 3), ("", 3, 3)]


def test_runs_are_compared_by_what_their_configs_do_not_share(ledger: Ledger) -> None:
    found = gather(ledger, ["rates-0", "rates-2"], limits=LIMITS)
    assert found.title == "rates-0, rates-2"
    assert found.name == ""
    assert found.varied == ("optim.lr",)
    assert len(found.tested) == 2


def test_a_sweep_and_a_run_beside_it_are_compared_together(ledger: Ledger, home: Path, tiny_qwen2: Path) -> None:
    config = replace(run_config(home, tiny_qwen2), seed=3)
    train_run(ledger, Worker(threads=1), RunRow("alone", "train", str(home / "alone"), {}), config)
    found = gather(ledger, ["rates", "alone"], top=4, limits=LIMITS)
    assert found.name == "rates"
    assert found.varied == ("optim.lr", "seed")
    assert {c.name for c in found.tested} == {"rates-0", "rates-1", "rates-2", "alone"}


def test_runs_of_different_data_are_refused_naming_both(ledger: Ledger, home: Path, tiny_qwen2: Path) -> None:
    config = run_config(home, tiny_qwen2, rows=70)
    train_run(ledger, Worker(threads=1), RunRow("other", "train", str(home / "other"), {}), config)
    with pytest.raises(DataError, match=r"rates-0 was trained on data \w{12}, other on data \w{12}") as refused:
        gather(ledger, ["rates-0", "other"], limits=LIMITS)
    assert "ftcluster runs show" in str(refused.value)


def test_a_reference_that_is_no_run_is_refused(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        gather(ledger, ["nowhere"])


def test_two_sweeps_at_once_are_refused(ledger: Ledger) -> None:
    _empty_sweep(ledger, "second")
    with pytest.raises(UsageError, match="one sweep at a time, and first: rates and second"):
        gather(ledger, ["rates", "second"])


def test_a_sweep_without_trials_is_refused(ledger: Ledger) -> None:
    _empty_sweep(ledger, "empty")
    with pytest.raises(UsageError, match="nothing to compare yet"):
        gather(ledger, ["empty"])


def test_a_sweep_that_has_not_trained_yet_is_shown_without_tests(ledger: Ledger, home: Path) -> None:
    _empty_sweep(ledger, "young")
    config = ledger.get("rates-0").config
    ledger.add(RunRow("young-0", "trial", str(home / "young-0"), config, {"optim.lr": 1.0}, parent="young"))
    found = gather(ledger, ["young"])
    assert (found.contenders[0].state, found.tested, found.best) == (RunState.WAITING, (), None)


def test_long_curves_are_thinned_to_means_of_neighbours() -> None:
    points = [Metric("train/loss", float(step), step, 0) for step in range(1, 2 * LONGEST_CURVE + 1)]
    curve = thinned(points)
    assert len(curve) == LONGEST_CURVE
    assert curve[0] == (2, 1.5)


@pytest.mark.slow
def test_the_page_is_written_beside_the_sweep_and_handed_to_its_spool(ledger: Ledger, home: Path) -> None:
    done = compare(ledger, ["rates"], home=home, top=1, now=1.0)
    assert done.page == home / "rates" / "comparison.html"
    assert (done.page.is_file(), done.note) == (True, "")
    kept = [line.record for line in read_lines(home / "rates" / SPOOL) if line.record.get("kind") == "artifact"]
    assert kept[-1]["path"] == "comparison.html"


def test_the_page_waits_while_the_sweeps_driver_is_writing(ledger: Ledger, home: Path) -> None:
    driver = SpoolTracker(home / "rates")
    try:
        done = compare(ledger, ["rates"], home=home, top=1, now=1.0)
    finally:
        driver.close()
    assert done.note == "the report is not in MLflow: another process is writing this run"


def test_an_mlflow_that_is_away_costs_only_the_copy(ledger: Ledger, home: Path) -> None:
    spec = ledger.get("rates").config
    away = {**spec, "base": {**spec["base"], "tracking": {"uri": "http://127.0.0.1:9"}}}
    ledger.set_state("rates", ledger.get("rates").state, config=away)
    try:
        done = compare(ledger, ["rates"], home=home, top=1, now=1.0)
    finally:
        ledger.set_state("rates", ledger.get("rates").state, config=spec)
    assert done.page.is_file()
    assert "ftcluster runs sync delivers it" in done.note


def test_a_place_that_cannot_be_written_is_named(ledger: Ledger, home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write the report") as refused:
        compare(ledger, ["rates"], home=home, top=1, page=tmp_path / "file" / "page.html", now=1.0)
    assert "--html FILE" in str(refused.value)


@pytest.mark.slow
def test_the_command_prints_json_for_programs(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["compare", "rates", "--home", str(home), "--top", "1", "--html", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"] == "rates-1"
    assert found["runs"][0]["against_base"]["loss"]["verdict"] == "better"
    assert found["runs"][1]["test"] is None
    assert Path(found["report"]) == page


def test_the_command_prints_a_table_and_where_the_report_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "rates-0", "rates-1", "--home", str(home)]) == 0
    out = capsys.readouterr().out
    assert "rates-1 ranks first of 2 runs" in out
    assert f"report: {home}/comparisons/rates-1-rates-0.html" in out


def test_a_trial_whose_folder_is_gone_is_ranked_but_not_tested(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "copy")
    with Ledger.open(tmp_path / "copy") as copy:
        moved = tmp_path / "gone"
        copy.set_state("rates-1", copy.get("rates-1").state, folder=str(moved))
        found = gather(copy, ["rates"], limits=LIMITS)
    assert found.contenders[0].name == "rates-1"
    assert "rates-1" not in [c.name for c in found.tested]


def _empty_sweep(ledger: Ledger, name: str) -> None:
    row = ledger.get("rates")
    ledger.add(replace(row, name=name, folder=str(Path(row.folder).with_name(name)), state=RunState.WAITING))
