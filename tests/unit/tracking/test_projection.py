"""Records in MLflow's terms: its limits kept, its cuts visible, its names accepted."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from ftcluster.contracts.metric import Metric
from ftcluster.contracts.trial import RunState
from ftcluster.tracking.projection import (
    CUT,
    MLFLOW_STATUS,
    StateChange,
    as_text,
    mlflow_name,
    read_slices,
    requests_of,
)
from ftcluster.tracking.records import SPOOL
from ftcluster.tracking.spool import SpoolTracker


def test_a_long_spool_is_read_in_slices_that_join_without_gap(tmp_path: Path) -> None:
    with closing(SpoolTracker(tmp_path)) as tracker:
        for step in range(1250):
            tracker.metrics({"a": step, "b": step}, step)

    slices = list(read_slices(tmp_path, 0))

    assert [len(part.metrics) for part in slices] == [800, 800, 800, 100]
    assert slices[-1].end == (tmp_path / SPOOL).stat().st_size
    (middle_on,) = {tuple(p.metrics[0].step for p in read_slices(tmp_path, slices[0].end))}
    assert middle_on == (400, 800, 1200)


def test_a_slice_sorts_records_by_kind_and_ends_in_the_last_state(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with closing(SpoolTracker(tmp_path, clock=lambda: 5.0)) as tracker:
        tracker.state(RunState.RUNNING)
        tracker.params({"lr": 1e-3, "on": True, "targets": ["q"], "name": "中"})
        tracker.params({"lr": 2e-3})
        tracker.tags({"a": "1"})
        tracker.tags({"a": "2"})
        tracker.artifact(tmp_path / "a.txt", "under")
        tracker.state(RunState.PRUNED, "rung 1")

    (part,) = read_slices(tmp_path, 0)

    assert part.params == [("lr", "0.001"), ("on", "true"), ("targets", '["q"]'), ("name", "中"), ("lr", "0.002")]
    assert part.tags == {"a": "2"}
    assert part.artifacts == [(tmp_path / "a.txt", "under")]
    assert part.change == StateChange(RunState.PRUNED, "rung 1", 5000)


@pytest.mark.parametrize(
    "line",
    [
        '{"n":1,"t":1,"kind":"state","state":"unknown","reason":""}',
        '{"n":1,"t":1,"kind":"artifact"}',
        '{"n":1,"t":1,"kind":"params","values":[]}',
        '{"n":1,"t":1,"kind":"of a later version"}',
        "not json",
    ],
)
def test_a_record_that_makes_no_sense_is_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / SPOOL).write_text(line + "\n")

    (part,) = read_slices(tmp_path, 0)

    assert (part.params, part.tags, part.metrics, part.artifacts, part.change) == ([], {}, [], [], None)
    assert part.end == len(line) + 1


def test_every_state_has_a_status_in_mlflow() -> None:
    assert set(MLFLOW_STATUS) == set(RunState)
    assert {state for state, status in MLFLOW_STATUS.items() if status == "KILLED"} == {
        RunState.KILLED,
        RunState.INTERRUPTED,
    }


def test_an_overlong_text_is_cut_where_one_can_see_it() -> None:
    assert as_text("x" * 6000, 6000) == "x" * 6000
    cut = as_text("x" * 6001, 6000)
    assert len(cut) == 6000
    assert cut.endswith(CUT)


def test_half_a_surrogate_pair_and_nul_become_something_every_store_takes() -> None:
    text = as_text("a\ud800b\x00c", 100)

    assert text.encode("utf-8")
    assert "\x00" not in text
    assert text[0] + text[-1] == "ac"


@settings(deadline=None)
@given(st.text(min_size=1, max_size=400))
def test_any_name_becomes_one_that_mlflow_accepts(name: str) -> None:
    _validate_metric_name(mlflow_name(name))
    _validate_param_name(mlflow_name(name))


def test_an_acceptable_name_is_kept() -> None:
    assert mlflow_name("eval/exact match: 中文-1.a_b") == "eval/exact match: 中文-1.a_b"


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=30), st.integers(0, 6000)), max_size=300))
def test_requests_keep_every_item_in_order_within_count_and_size(shape: list[tuple[str, int]]) -> None:
    items = [(key, "中" * length) for key, length in shape]

    requests = list(requests_of(items, 100))

    assert [item for request in requests for item in request] == items
    for request in requests:
        assert 1 <= len(request) <= 100
        assert len(json.dumps([{"key": key, "value": value} for key, value in request], indent=2)) < 1_000_000


def test_a_request_of_metrics_holds_a_thousand() -> None:
    points = [Metric("train/loss", 1.0, step, 0) for step in range(2001)]

    assert [len(request) for request in requests_of(points, 1000)] == [1000, 1000, 1]
