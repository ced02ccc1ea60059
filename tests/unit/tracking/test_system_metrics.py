"""System metrics: of this process, under the names MLflow's system tab shows."""

from __future__ import annotations

import time

import pytest

from ftcluster.tracking.system import over_ranks, system_metrics


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_names_and_ranges() -> None:
    found = system_metrics()

    assert {"system/cpu_percent", "system/memory_mb", "system/host_memory_percent"} <= set(found)
    assert found["system/memory_mb"] > 5
    assert 0 < found["system/host_memory_percent"] <= 100


def test_what_was_measured_of_its_gpus_stands_beside_the_rest() -> None:
    assert set(system_metrics(lambda: {"system/gpu_power_w": 70.0})) - set(system_metrics()) == {"system/gpu_power_w"}


def test_cpu_is_what_this_process_used_since_the_last_call() -> None:
    system_metrics()
    begun = time.monotonic()
    burn(0.3)
    busy = system_metrics()["system/cpu_percent"]
    expected = 100 * 0.3 / (time.monotonic() - begun)

    assert busy == pytest.approx(expected, rel=0.5)


def test_memory_grows_with_what_is_held() -> None:
    before = system_metrics()["system/memory_mb"]
    held = bytearray(b"x" * 64 * 2**20)

    assert system_metrics()["system/memory_mb"] > before + 0.9 * len(held) / 2**20


def test_processes_of_one_training_add_up_but_for_shares_and_temperatures() -> None:
    ranks = [
        {"system/memory_mb": 100.0, "system/host_memory_percent": 40.0, "system/gpu_utilization_percent": 50.0},
        {"system/memory_mb": 300.0, "system/host_memory_percent": 60.0, "system/gpu_temperature_c": 70.0},
        {"system/gpu_temperature_c": 60.0, "system/gpu_utilization_percent": 100.0, "system/gpu_memory_used_mb": 5.0},
    ]

    assert over_ranks(ranks) == {
        "system/memory_mb": 400.0,
        "system/host_memory_percent": 60.0,
        "system/gpu_utilization_percent": 75.0,
        "system/gpu_temperature_c": 70.0,
        "system/gpu_memory_used_mb": 5.0,
    }
    assert over_ranks(ranks[:1]) == ranks[0]
