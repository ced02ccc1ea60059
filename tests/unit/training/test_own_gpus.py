"""A run's records show the GPUs it was given, and no other of the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from training_samples import World

from ftcluster.config.compose import compose, to_dict
from ftcluster.tracking.history import read_metrics
from ftcluster.training import session
from ftcluster.training.bench import prepare_data
from ftcluster.training.worker import Job, Worker


@pytest.fixture
def job(world: World, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    script = tmp_path / "gpus.yaml"
    script.write_text("gpus: {GPU-a: {power: 100, temperature: 80}, GPU-b: {power: 300, temperature: 40}}")
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(script))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    config = compose([*world.words(), f"home={home}"])
    return Job(to_dict(config), str(tmp_path / "run"), str(prepare_data(config).folder), 1, {})


def gpu_values(job: Job) -> dict[str, list[float]]:
    found = read_metrics(Path(job.folder))
    return {name: [point.value for point in points] for name, points in found.items() if "/gpu_" in name}


def test_at_its_checkpoints_a_run_records_its_own_gpu(job: Job) -> None:
    assert Worker().run(job).error is None
    assert gpu_values(job) == {
        "system/gpu_utilization_percent": [0.0],
        "system/gpu_memory_used_mb": [0.0],
        "system/gpu_temperature_c": [40.0],
        "system/gpu_power_w": [300.0],
    }


def test_while_it_trains_it_is_looked_at_too(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LOOK", 0.0)
    assert Worker().run(replace(job, until=3)).error is None
    points = read_metrics(Path(job.folder))["system/gpu_power_w"]
    assert [(point.step, point.value) for point in points] == [(1, 300.0), (2, 300.0), (3, 300.0)]


def test_a_host_that_reserved_no_gpu_records_none_although_it_sees_them(job: Job) -> None:
    assert Worker(gpus=False).run(job).error is None
    assert gpu_values(job) == {}
