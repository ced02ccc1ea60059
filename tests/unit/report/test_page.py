"""The page and the numbers of sweeps of all kinds; what a browser makes of it is tested in ``tests/integration``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from comparison_samples import ATTACK
from mlflow import MlflowClient
from report_samples import START, Trial, make_sweep, searched

from ftcluster.cli import main
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.report.gather import gather
from ftcluster.report.page import page
from ftcluster.report.write import closing_report

MANY = 300
NOBODY = "http://127.0.0.1:9"  # an MLflow server that is away
LISTS = [
    Trial({"adapter.targets": targets, "data.train": ["数据/问答.jsonl"], "optim.lr": rate}, [loss], seconds=(0.0, 1.0))
    for targets, rate, loss in ((["all-linear"], 1e-3, 1.0), (["q_proj", "v_proj"], 1e-2, 2.0), (None, 1e-2, 2.0))
]
KINDS = {
    "halved": (searched(16), RunState.FINISHED),
    "running": ([*searched(6), Trial({"optim.lr": 1e-3, "adapter.rank": 4}, state=RunState.RUNNING)], None),
    "failures": ([Trial({"optim.lr": 1.0}, state=RunState.FAILED, reason=ATTACK)] * 2, RunState.FAILED),
    "single": ([Trial({}, [1.0])], RunState.FINISHED),
    "lists": (LISTS, RunState.KILLED),
    "nan": ([Trial({"optim.lr": r}, [float("nan")]) for r in (0.1, 0.2)], RunState.FINISHED),
    "untold": ([Trial({"optim.lr": 0.1}, state=RunState.WAITING)], None),
}


def text_of(home: Path, trials: list[Trial], end: RunState | None) -> str:
    name = make_sweep(home, trials, end=end)
    with Ledger.open(home) as ledger:
        return page(gather(ledger, name, now=START))


def figures(text: str) -> dict[str, Any]:
    (data,) = re.findall(r'<script[^>]*id="figures">(.*?)</script>', text, re.DOTALL)
    found: dict[str, Any] = json.loads(data)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sweep_has_a_page_that_loads_nothing(kind: str, tmp_path: Path) -> None:
    text = text_of(tmp_path, *KINDS[kind])
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|img|iframe|link)[^>]+(src|href)=[\"']?(https?:)?//", text)
    assert 'id="ranking"' in text
    assert ATTACK not in text


def test_a_page_has_a_figure_for_each_question(tmp_path: Path) -> None:
    assert set(figures(text_of(tmp_path, *KINDS["halved"]))) == {
        "rungs", "curve", "influence", "parallel", "slice optim.lr", "slice adapter.rank", "surface", "timeline"
    }  # fmt: skip


def test_a_grid_is_shown_as_a_table_of_means(tmp_path: Path) -> None:
    trials = [
        Trial({"optim.lr": rate, "adapter.rank": rank}, [rate * rank + seed], config={"seed": seed})
        for rate in (0.1, 0.2, 0.3)
        for rank in (4, 8)
        for seed in (0, 1)
    ]
    (trace,) = figures(text_of(tmp_path, trials, RunState.FINISHED))["surface"]["data"]
    assert trace["type"] == "heatmap"
    assert {tuple(trace["x"]), tuple(trace["y"])} == {("0.1", "0.2", "0.3"), ("4", "8")}
    assert trace["z"][0][0] == pytest.approx(0.1 * 4 + 0.5)


def test_a_surface_ends_where_no_trial_has_been(tmp_path: Path) -> None:
    corners = [(1e-4, 0.0), (1e-2, 0.0), (1e-4, 0.3), (1e-3, 0.1)]
    trials = [Trial({"optim.lr": rate, "adapter.dropout": drop}, [rate + drop]) for rate, drop in corners * 3]
    trials = [
        Trial({**t.overrides, "optim.lr": t.overrides["optim.lr"] * (1 + at / 50)}, t.values)
        for at, t in enumerate(trials)
    ]
    contour, dots = figures(text_of(tmp_path, trials, RunState.FINISHED))["surface"]["data"]
    assert contour["type"] == "contour"
    assert contour["z"][-1][-1] is None  # high rate and high dropout were never tried
    assert len(dots["x"]) == 12


def test_chinese_and_lists_can_be_read(tmp_path: Path) -> None:
    text = text_of(tmp_path, *KINDS["lists"])
    assert "数据/问答.jsonl" in text
    assert "q_proj, v_proj" in text


@pytest.mark.slow
def test_hundreds_of_trials_stay_a_few_megabytes_and_a_few_traces(tmp_path: Path) -> None:
    text = text_of(tmp_path, searched(MANY), RunState.FINISHED)
    assert len(text.encode()) < 4_000_000
    assert {name: len(figure["data"]) for name, figure in figures(text).items() if len(figure["data"]) > 20} == {}
    shown = [x for trace in figures(text)["rungs"]["data"][:-1] for x in trace["x"]]
    assert sum(x == 10 for x in shown) == MANY


def test_repeats_get_intervals(tmp_path: Path) -> None:
    trials = [
        Trial({"optim.lr": rate, "seed": seed}, [rate + 0.01 * seed]) for rate in (0.1, 0.2) for seed in (1, 2, 3)
    ]
    text = text_of(tmp_path, trials, RunState.FINISHED)
    assert "intervals" in figures(text)
    assert "3 of 3" in text


@pytest.mark.slow
def test_the_command_writes_the_page_beside_the_sweep_and_into_its_mlflow_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = make_sweep(tmp_path, searched(16))
    assert main(["report", name, "--home", str(tmp_path), "--json", "--price", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["report"]).read_text().startswith("<!doctype html>")
    assert told["report"] == str(tmp_path / name / "report.html")
    with Ledger.open(tmp_path) as ledger:
        run = ledger.get(name).mlflow_run_id
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert [artifact.path for artifact in client.list_artifacts(run)] == ["report.html"]
    assert len(told["settings"]) == 16
    assert told["influence"]["parameters"][0]["key"] == "optim.lr"
    assert told["cluster"]["hosts_at_once"] == 4
    assert any("lr explains" in sentence for sentence in told["verdict"])


def test_the_command_speaks_and_names_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = make_sweep(tmp_path, searched(16), mlflow=NOBODY)
    page = tmp_path / "elsewhere" / "page.html"
    assert main(["report", name, "--home", str(tmp_path), "-o", str(page)]) == 0
    told = capsys.readouterr()
    text = " ".join(told.out.split())
    assert "has the best value" in text
    assert "the report waits for MLflow" in told.err
    assert f"report: {page}" in text
    assert page.exists()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = make_sweep(tmp_path, searched(4))
    (tmp_path / "file").write_text("")
    assert main(["report", name, "--home", str(tmp_path), "-o", str(tmp_path / "file" / "page.html")]) == 6
    assert "name another place: -o FILE" in capsys.readouterr().err


def test_two_objectives_are_drawn_against_each_other_with_those_that_nothing_beats(tmp_path: Path) -> None:
    costs = {4: 100.0, 8: 200.0, 16: 400.0, 32: 800.0}
    losses = {4: 2.0, 8: 1.0, 16: 1.5, 32: 0.5}
    trials = [
        Trial({"adapter.rank": rank}, [losses[rank]], metrics={"trial/parameters": costs[rank]}) for rank in costs
    ]
    name = make_sweep(tmp_path, trials, also={"trial/parameters": "minimize"})
    with Ledger.open(tmp_path) as ledger:
        line, dots = figures(page(gather(ledger, name, now=START)))["objective trial/parameters"]["data"]
    assert list(zip(line["x"], line["y"], strict=True)) == [(100.0, 2.0), (200.0, 1.0), (800.0, 0.5)]
    assert len(dots["x"]) == 4


def test_a_key_that_a_trial_had_no_use_for_is_left_open(tmp_path: Path) -> None:
    trials = [
        Trial({"adapter.kind": "lora", "adapter.rank": 4}, [1.0]),
        Trial({"adapter.kind": "none"}, [2.0]),
        Trial({"named": "as-before", "adapter.kind": "lora"}, [3.0]),
    ]
    name = make_sweep(tmp_path, trials)
    with Ledger.open(tmp_path) as ledger:
        found = gather(ledger, name, now=START)
    assert [c.parameters["adapter.rank"] for c in found.comparison.contenders] == [4, None, 8]
    assert found.keys == ("adapter.kind", "adapter.rank")
    assert "named" in found.comparison.varied


def test_a_price_makes_money_of_the_hours_that_hosts_were_held(tmp_path: Path) -> None:
    trials = [Trial({"optim.lr": 0.1}, [1.0], seconds=(0.0, 1800.0), config={"cluster.gpus": 2.0})]
    name = make_sweep(tmp_path, trials, budget={"price": {"gpu": 3.0, "cpu": 0.1}})
    with Ledger.open(tmp_path) as ledger:
        asked, own = (gather(ledger, name, price=price, now=START).usage for price in (4.0, None))
        assert (asked.gpu_hours, asked.money) == (1.0, 4.0)
        assert own.money == 3.0
        ledger.edit(name, lambda row: {**row.config, "spent": {"gpu_hours": 1.5, "money": 7.0}})
        counted = gather(ledger, name, now=START).usage
    assert (counted.gpu_hours, counted.money) == (1.5, 7.0)


def test_a_sweep_ends_with_its_report_or_with_why_there_is_none(tmp_path: Path) -> None:
    full, empty = (
        make_sweep(tmp_path, trials, name=name, mlflow=NOBODY) for name, trials in (("a", searched(2)), ("b", []))
    )
    with Ledger.open(tmp_path) as ledger:
        assert closing_report(ledger, full, home=tmp_path, now=START) == f"report: {tmp_path / 'a' / 'report.html'}"
        assert "there is nothing to compare yet" in closing_report(ledger, empty, home=tmp_path, now=START)


def test_a_page_shows_the_best_of_very_many_trials_and_counts_the_others(tmp_path: Path) -> None:
    name = make_sweep(tmp_path, searched(16))
    with Ledger.open(tmp_path) as ledger:
        text = page(gather(ledger, name, now=START), most=10)
    assert "The 6 trials behind these are counted but not shown" in text
    assert text.count('<th scope="row">') == 10
    assert "16 of 16 trials ended" in text
