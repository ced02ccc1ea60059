"""The spool: nothing recorded is lost, nothing is recorded twice, whatever happens to the process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcluster.contracts.metric import Metric
from ftcluster.contracts.trial import RunState
from ftcluster.errors import StoreError
from ftcluster.tracking.history import read_metrics
from ftcluster.tracking.records import SPOOL, read_lines
from ftcluster.tracking.spool import SpoolTracker


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[SpoolTracker]:
    with closing(SpoolTracker(tmp_path, clock=lambda: 1_760_000_000.125)) as opened:
        yield opened


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / SPOOL).read_text(encoding="ascii").splitlines()]


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_a_metric_keeps_the_time_at_which_it_was_recorded(tracker: SpoolTracker, tmp_path: Path) -> None:
    tracker.metrics({"train/loss": 2.5, "train/lr": 1e-3}, step=7)

    assert read_metrics(tmp_path) == {
        "train/loss": [Metric("train/loss", 2.5, 7, 1_760_000_000_125)],
        "train/lr": [Metric("train/lr", 1e-3, 7, 1_760_000_000_125)],
    }


def test_every_kind_of_record_has_the_next_number(tracker: SpoolTracker, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("x")
    tracker.params({"optim": {"lr": 1e-3}, "seed": 17})
    tracker.tags({"git.commit": "abc"})
    tracker.metrics({"loss": 1.0}, 0)
    tracker.artifact(tmp_path / "report.html", under="reports")
    tracker.state(RunState.FAILED, "out of memory")

    assert [(r["n"], r["kind"]) for r in records(tmp_path)] == list(
        enumerate(["params", "tags", "metrics", "artifact", "state"], start=1)
    )
    assert records(tmp_path)[0]["values"] == {"optim.lr": 1e-3, "seed": 17}
    assert records(tmp_path)[3] | {"path": "report.html", "under": "reports"} == records(tmp_path)[3]
    assert records(tmp_path)[4] | {"state": "failed", "reason": "out of memory"} == records(tmp_path)[4]


def test_numbers_go_on_where_an_earlier_process_stopped(tmp_path: Path) -> None:
    for step in range(3):
        with closing(SpoolTracker(tmp_path)) as tracker:
            tracker.metrics({"loss": 1.0}, step)

    assert [record["n"] for record in records(tmp_path)] == [1, 2, 3]


def test_nothing_to_say_is_not_recorded(tracker: SpoolTracker, tmp_path: Path) -> None:
    tracker.params({})
    tracker.tags({})
    tracker.metrics({}, 3)

    assert records(tmp_path) == []


def test_the_folder_is_made_when_it_is_not_there(tmp_path: Path) -> None:
    with closing(SpoolTracker(tmp_path / "runs" / "lora-1")) as tracker:
        tracker.metrics({"loss": 1.0}, 1)

    assert "loss" in read_metrics(tmp_path / "runs" / "lora-1")


def test_a_run_without_a_spool_has_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == {}


@settings(deadline=None)
@given(st.floats())
def test_any_float_survives_the_file_to_the_last_bit(value: float) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(SpoolTracker(Path(folder))) as tracker:
        tracker.metrics({"loss": value}, 1)
        (read,) = read_metrics(Path(folder))["loss"]

    assert read.value == value or (math.isnan(read.value) and math.isnan(value))


def test_lines_are_plain_json_even_for_values_json_does_not_have(tracker: SpoolTracker, tmp_path: Path) -> None:
    tracker.metrics({"a": float("nan"), "b": float("-inf")}, 1)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / SPOOL).read_text(encoding="ascii"), parse_constant=refuse)


def test_a_step_already_on_file_is_ignored(tracker: SpoolTracker, tmp_path: Path) -> None:
    tracker.metrics({"loss": 1.0}, 5)
    tracker.metrics({"loss": 9.0, "eval/loss": 3.0}, 5)
    tracker.metrics({"loss": 9.0}, 4)

    found = read_metrics(tmp_path)
    assert [p.value for p in found["loss"]] == [1.0]
    assert [p.value for p in found["eval/loss"]] == [3.0]


def test_a_run_killed_at_step_27_and_resumed_at_step_20_reads_as_never_killed(tmp_path: Path) -> None:
    def train(folder: Path, first: int, last: int) -> None:
        with closing(SpoolTracker(folder, clock=lambda: 1.0)) as tracker:
            for step in range(first, last + 1):
                tracker.metrics({"train/loss": 1 / step}, step)
                if step % 10 == 0:
                    tracker.metrics({"eval/loss": 2 / step}, step)

    train(tmp_path / "twin", 1, 40)
    train(tmp_path / "killed", 1, 27)
    train(tmp_path / "killed", 21, 40)

    assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "twin")


@settings(deadline=None)
@given(st.data())
def test_a_spool_cut_anywhere_keeps_its_whole_lines_and_goes_on(data: st.DataObject) -> None:
    def train(folder: Path) -> None:
        with closing(SpoolTracker(folder, clock=lambda: 1.0)) as tracker:
            for step in range(1, 6):
                tracker.metrics({"loss": 1 / step, "损失": step}, step)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train(folder)
        whole = (folder / SPOOL).read_bytes()
        (folder / SPOOL).write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        train(folder)

        assert (folder / SPOOL).read_bytes() == whole


def test_a_torn_last_line_is_left_out_by_readers_and_cut_off_at_opening(tmp_path: Path) -> None:
    with closing(SpoolTracker(tmp_path)) as tracker:
        tracker.metrics({"loss": 1.0}, 1)
    whole = (tmp_path / SPOOL).read_bytes()
    (tmp_path / SPOOL).write_bytes(whole + b'{"n":2,"kind":"metr')

    assert [p.step for p in read_metrics(tmp_path)["loss"]] == [1]
    SpoolTracker(tmp_path).close()
    assert (tmp_path / SPOOL).read_bytes() == whole


@settings(deadline=None)
@given(st.data())
def test_a_flipped_bit_costs_no_more_than_the_line_it_is_in(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with closing(SpoolTracker(folder, clock=lambda: 1.0)) as tracker:
            for step in (1, 2, 3):
                tracker.metrics({"loss": 0.5}, step)
        lines = (folder / SPOOL).read_bytes().splitlines(keepends=True)
        damaged = bytearray(lines[1])
        damaged[data.draw(st.integers(0, len(damaged) - 2))] ^= 1 << data.draw(st.integers(0, 7))
        (folder / SPOOL).write_bytes(lines[0] + bytes(damaged) + lines[2])

        first, *_, last = read_metrics(folder)["loss"]
        assert (first.step, last.step) == (1, 3)
        SpoolTracker(folder).close()


def test_a_process_killed_right_after_recording_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from ftcluster.tracking.spool import SpoolTracker\n"
        "tracker = SpoolTracker(Path(sys.argv[1]))\n"
        "for step in range(100): tracker.metrics({'loss': step}, step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run_python(code, str(tmp_path)).returncode == -9

    assert [p.step for p in read_metrics(tmp_path)["loss"]] == list(range(100))


def test_a_second_writer_of_a_run_is_refused(tracker: SpoolTracker, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="another process is writing this run") as caught:
        SpoolTracker(tmp_path)

    assert str(tmp_path) in str(caught.value)
    assert "choose another run name" in str(caught.value)
    tracker.close()
    SpoolTracker(tmp_path).close()


def test_a_full_disk_is_an_error_with_path_and_remedy_and_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from ftcluster.tracking.spool import SpoolTracker\n"
        "tracker = SpoolTracker(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for step in range(100): tracker.metrics({'loss': step}, step)"
    )
    result = run_python(code, str(tmp_path))

    assert "StoreError" in result.stderr
    assert f"{tmp_path / SPOOL}: cannot record metrics" in result.stderr
    assert "free space" in result.stderr
    assert (tmp_path / SPOOL).read_bytes().endswith(b"\n")
    kept = len(list(read_lines(tmp_path / SPOOL)))
    assert kept > 5
    with closing(SpoolTracker(tmp_path)) as resumed:
        for step in range(100):
            resumed.metrics({"loss": step}, step)
    assert [p.step for p in read_metrics(tmp_path)["loss"]] == list(range(100))


def test_a_folder_that_cannot_be_made_is_an_error_with_path_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")

    with pytest.raises(StoreError, match="make the folder writable") as caught:
        SpoolTracker(tmp_path / "runs" / "lora-1")
    assert "lora-1" in caught.value.where


def test_an_artifact_that_is_not_there_is_refused_when_it_is_recorded(tracker: SpoolTracker, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing\.txt: no such file or folder"):
        tracker.artifact(tmp_path / "nothing.txt")


def test_an_artifact_elsewhere_is_recorded_with_its_whole_path(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("[]")
    with closing(SpoolTracker(tmp_path / "run")) as tracker:
        tracker.artifact(tmp_path / "data.json")

    assert records(tmp_path / "run")[0]["path"] == str((tmp_path / "data.json").resolve())


def test_secrets_never_reach_the_file(tracker: SpoolTracker, tmp_path: Path) -> None:
    tracker.params({"hub": {"hf_token": "s3cret-1"}, "store": "postgresql://me:s3cret-2@db/mlflow"})
    tracker.tags({"aws.secret_access_key": "s3cret-3", "remote": "https://me:s3cret-4@host/x"})
    tracker.state(RunState.FAILED, "cannot reach https://me:s3cret-5@host/x")

    assert "s3cret" not in (tmp_path / SPOOL).read_text()


def test_flushing_and_closing_twice_are_harmless(tmp_path: Path) -> None:
    tracker = SpoolTracker(tmp_path)
    tracker.flush()
    tracker.flush()
    tracker.close()
    tracker.close()


def test_timestamps_follow_the_clock_even_backwards_without_losing_a_step(tmp_path: Path) -> None:
    seconds = count(100, -10)
    with closing(SpoolTracker(tmp_path, clock=lambda: next(seconds))) as tracker:
        for step in range(3):
            tracker.metrics({"loss": 1.0}, step)

    assert [(p.step, p.timestamp_ms) for p in read_metrics(tmp_path)["loss"]] == [
        (0, 100_000),
        (1, 90_000),
        (2, 80_000),
    ]
