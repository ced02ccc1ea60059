"""A process's own GPUs, and no others, under four names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftcluster.cluster.inventory import Gpu, GpuProcess, GpuSlice
from ftcluster.cluster.scripted import ScriptedProbe
from ftcluster.cluster.telemetry import gpu_metrics, measure, own_gpus

CARDS = (
    Gpu(0, "GPU-aaa"),
    Gpu(1, "GPU-bbb"),
    Gpu(2, "GPU-ccc", mig=True, memory_used=30, utilization=None, slices=(GpuSlice("MIG-x", 10, 4),)),
)
SCRIPT = """
gpus:
  GPU-a: {utilization: 0.5, memory_used: 1048576, temperature: 50, power: 100}
  GPU-b: {utilization: 1.0, memory_used: 2097152, temperature: 70, power: 300}
  GPU-c: {utilization: 0.1, memory_used: 0, temperature: 30, power: 50}
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "gpus.yaml"
    file.write_text(SCRIPT)
    return file


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("GPU-bbb", [1]),
        ("GPU-a, GPU-b", [0, 1]),
        ("0,7,1", [0]),  # as CUDA: what follows an unknown word is ignored
        ("MIG-x", [2]),
    ],
)
def test_what_cuda_may_see_is_what_is_measured(visible: str | None, indices: list[int]) -> None:
    assert [gpu.index for gpu in own_gpus(CARDS, visible, 1)] == indices


def test_a_mig_device_has_its_own_memory_and_no_utilisation() -> None:
    (part,) = own_gpus(CARDS, "MIG-x", 1)
    assert (part.memory_used, part.memory_total, part.utilization) == (4, 10, None)


def test_of_the_visible_cards_those_the_process_is_on_count_where_the_driver_tells() -> None:
    cards = (Gpu(0, "GPU-a", processes=(GpuProcess(5),)), Gpu(1, "GPU-b", processes=(GpuProcess(6),)))
    assert [gpu.index for gpu in own_gpus(cards, None, 6)] == [1]
    assert [gpu.index for gpu in own_gpus(cards, "0", 6)] == [0]


def test_one_card_is_itself(script: Path) -> None:
    assert measure(ScriptedProbe(script), "1", os.getpid()) == {
        "system/gpu_utilization_percent": 100.0,
        "system/gpu_memory_used_mb": 2.0,
        "system/gpu_temperature_c": 70.0,
        "system/gpu_power_w": 300.0,
    }


def test_several_cards_are_one_mean_one_highest_and_two_sums(script: Path) -> None:
    assert measure(ScriptedProbe(script), "0,1", os.getpid()) == {
        "system/gpu_utilization_percent": 75.0,
        "system/gpu_memory_used_mb": 3.0,
        "system/gpu_temperature_c": 70.0,
        "system/gpu_power_w": 400.0,
    }


def test_what_a_card_does_not_tell_has_no_name(script: Path) -> None:
    script.write_text("gpus: {GPU-a: {silent: [power, utilization]}}")
    found = measure(ScriptedProbe(script), None, os.getpid())
    assert set(found) == {"system/gpu_memory_used_mb", "system/gpu_temperature_c"}


def test_nothing_is_measured_without_gpus(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    import torch

    monkeypatch.delenv("FTCLUSTER_GPU_PROBE", raising=False)
    if not torch.cuda.is_available():
        assert gpu_metrics("auto") == {}
    script.write_text("problem: no NVIDIA driver on this machine")
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(script))
    assert gpu_metrics("auto") == {}


def test_a_process_that_trains_on_the_cpu_has_no_gpus(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(script))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert gpu_metrics("auto")["system/gpu_temperature_c"] == 30.0
    assert gpu_metrics("cpu") == {}


def test_a_broken_script_does_not_stop_a_training(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    script.write_text("gpus: {GPU-a: {colour: green}}")
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(script))
    assert gpu_metrics("auto") == {}
