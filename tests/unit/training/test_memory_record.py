"""What earlier runs of a home took calibrates what is foretold: those of a kind, and the newest of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftcluster.contracts.folder import RunFolder
from ftcluster.training.memory_record import (
    Calibration,
    Kind,
    MemoryRecord,
    calibrated,
    calibration,
    change_memory,
    read_memory,
)

KIND = Kind("packed", "cuda", "bf16")


def write(folder: Path, measured: int, kind: Kind = KIND, predicted: int = 1000) -> None:
    folder.mkdir(parents=True)
    change_memory(
        folder,
        engine=kind.engine,
        device=kind.device,
        precision=kind.precision,
        predicted=predicted,
        measured=measured,
    )


def test_the_factor_is_the_median_of_measured_over_predicted_of_trainings_and_trials(tmp_path: Path) -> None:
    for name, measured in {"one": 1100, "sweep/two": 900, "sweep/three": 1300}.items():
        write(tmp_path / name, measured)
    assert calibration(tmp_path, KIND) == Calibration(3, 1.1)
    assert calibrated(calibration(tmp_path, KIND)) == "calibrated by 3 runs: x1.10"


@pytest.mark.parametrize(
    "other",
    [Kind("packed-deepspeed", "cuda", "bf16"), Kind("packed", "cpu", "bf16"), Kind("packed", "cuda", "fp32")],
)
def test_runs_of_another_kind_and_those_that_were_not_measured_say_nothing(tmp_path: Path, other: Kind) -> None:
    write(tmp_path / "other", 1500, other)
    write(tmp_path / "unmeasured", 0)
    write(tmp_path / "unforetold", 1500, predicted=0)
    assert calibration(tmp_path, KIND) == Calibration() == calibration(tmp_path / "no-home", KIND)
    write(tmp_path / "like", 1200)
    assert calibrated(calibration(tmp_path, KIND)) == "calibrated by 1 run: x1.20"


def test_what_was_measured_with_something_else_in_it_doubles_a_prediction_at_most(tmp_path: Path) -> None:
    write(tmp_path / "run", 9000)
    assert calibration(tmp_path, KIND) == Calibration(1, 2.0)


def test_the_newest_hundred_count(tmp_path: Path) -> None:
    for number in range(101):
        write(tmp_path / f"run-{number}", 3000 if number == 0 else 1200)
        os.utime(RunFolder(tmp_path / f"run-{number}").memory, (number, number))
    assert calibration(tmp_path, KIND) == Calibration(100, 1.2)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"predicted": "many", "measured": null}'])
def test_a_damaged_record_is_an_empty_one_and_a_home_with_it_calibrates(tmp_path: Path, text: str) -> None:
    write(tmp_path / "run", 1100)
    (tmp_path / "damaged").mkdir()
    RunFolder(tmp_path / "damaged").memory.write_text(text)
    assert read_memory(tmp_path / "damaged") == MemoryRecord()
    assert calibration(tmp_path, KIND) == Calibration(1, 1.1)
