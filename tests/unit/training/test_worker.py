"""A job ends with a value, whatever happens inside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_samples import STEPS, World, curves

from ftcluster.config.compose import compose, to_dict
from ftcluster.engine.packed.layer import _Adapted
from ftcluster.engine.sharded.ranks import RankLost
from ftcluster.errors import ConfigError, Diverged, StoreError, TrialError
from ftcluster.tracking.records import SPOOL, read_lines
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.bench import prepare_data
from ftcluster.training.loop import Progress
from ftcluster.training.worker import ERROR_LOG, Job, Worker


@pytest.fixture
def job(world: World, home: Path, tmp_path: Path) -> Job:
    config = compose([*world.words(), f"home={home}"])
    return Job(to_dict(config), str(tmp_path / "run"), str(prepare_data(config).folder), 6, {"host": "here"})


def with_config(job: Job, section: str, **changes: object) -> Job:
    return replace(job, config={**job.config, section: {**job.config[section], **changes}})


def kinds(folder: str) -> list[str]:
    return [str(line.record["kind"]) for line in read_lines(Path(folder) / SPOOL)]


def test_a_stretch_ends_with_a_report_and_settings_are_recorded_once(job: Job) -> None:
    worker = Worker()
    outcome = worker.run(job)
    assert outcome.error is None
    assert outcome.report is not None
    assert (outcome.report.step, outcome.stopped) == (6, False)
    assert worker.run(replace(job, until=None)).report.step == STEPS
    recorded = kinds(job.folder)
    assert recorded.count("params") == 1
    assert recorded.count("tags") == 1
    assert recorded.count("state") == 2


def test_progress_can_be_watched_meanwhile(job: Job) -> None:
    seen: list[int] = []
    Worker().run(job, lambda progress: seen.append(progress.step))
    assert seen == [0, 1, 2, 3, 4, 5, 6]


def test_asked_to_stop_it_saves_says_so_and_the_next_worker_goes_on(job: Job) -> None:
    worker = Worker()
    outcome = worker.run(replace(job, until=None), lambda progress: progress.step == 3 and worker.stop())
    assert outcome.stopped
    assert outcome.report is not None
    assert outcome.report.step == 3
    assert Worker().run(replace(job, until=None)).report.step == STEPS
    assert [step for step, _ in curves(Path(job.folder))["train/loss"]] == list(range(1, STEPS + 1))


def test_a_divergence_is_a_value(job: Job) -> None:
    outcome = Worker().run(with_config(job, "optim", lr=1e30))
    assert isinstance(outcome.error, Diverged)
    assert outcome.report is None


def test_a_defect_in_the_middle_of_training_is_a_value_and_kept_in_full(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a kernel is missing")

    monkeypatch.setattr(_Adapted, "backward", staticmethod(fail))
    worker = Worker()
    outcome = worker.run(job)
    assert isinstance(outcome.error, TrialError)
    assert outcome.error.message == "RuntimeError: a kernel is missing"
    assert outcome.error.remedy == f"see {Path(job.folder) / ERROR_LOG}"
    assert "in backward" in (Path(job.folder) / ERROR_LOG).read_text()
    monkeypatch.undo()
    assert worker.run(replace(job, until=1)).report is not None  # nothing is left open


def test_a_device_that_fails_is_no_fault_of_the_trials(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nand advice")

    monkeypatch.setattr(_Adapted, "backward", staticmethod(fail))
    outcome = Worker().run(job)
    assert isinstance(outcome.error, RankLost)
    assert outcome.error.message == "the device failed: CUDA error: uncorrectable ECC error encountered"


def test_a_config_of_another_version_is_a_value(job: Job) -> None:
    outcome = Worker().run(with_config(job, "optim", momentum=0.9))
    assert isinstance(outcome.error, ConfigError)
    assert "optim.momentum" in str(outcome.error)


def test_a_folder_that_cannot_be_written_is_a_value_with_the_remedy(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = Worker().run(replace(job, folder=str(tmp_path / "file" / "run")))
    assert isinstance(outcome.error, StoreError)
    assert "file/run" in str(outcome.error)
    assert "make the folder writable" in outcome.error.remedy


def test_a_result_that_cannot_be_written_is_a_value_with_the_remedy(job: Job) -> None:
    Path(job.folder).mkdir()
    (Path(job.folder) / ".writing-adapter").write_text("in the way")
    outcome = Worker().run(job)
    assert isinstance(outcome.error, StoreError)
    assert "could not be written: File exists" in str(outcome.error)
    assert "then resume" in outcome.error.remedy


def test_a_run_that_another_process_writes_is_a_value(job: Job) -> None:
    tracker = SpoolTracker(Path(job.folder))
    try:
        outcome = Worker().run(job)
    finally:
        tracker.close()
    assert isinstance(outcome.error, StoreError)
    assert "another process is writing this run" in str(outcome.error)


def test_a_defect_is_kept_in_full_and_told_in_a_line(job: Job) -> None:
    def defect(_: Progress) -> None:
        raise ZeroDivisionError("a defect of ours")

    outcome = Worker().run(job, defect)
    assert type(outcome.error) is TrialError
    log = Path(job.folder) / "error.log"
    assert str(outcome.error) == f"run: ZeroDivisionError: a defect of ours\n  -> see {log}"
    assert "Traceback" in log.read_text()
