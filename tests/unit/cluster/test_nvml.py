"""GPUs as the driver sees them; a machine without a driver is no error."""

from __future__ import annotations

import shutil

import pytest

from ftcluster.cluster.health import judge
from ftcluster.cluster.inventory import GpuReading
from ftcluster.cluster.nvml import NvmlProbe

HAS_DRIVER = shutil.which("nvidia-smi") is not None


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has a driver")
def test_without_a_driver_there_are_no_gpus_and_one_sentence_why() -> None:
    assert NvmlProbe().read() == GpuReading(problem="no NVIDIA driver on this machine")


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has a driver")
def test_without_a_driver_nothing_is_heard_and_listening_may_end() -> None:
    with NvmlProbe() as probe:
        assert probe.read().gpus == ()
    assert probe.read().gpus == ()


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_DRIVER, reason="needs an NVIDIA GPU")
def test_every_gpu_has_a_uuid_memory_and_a_capability_and_is_sound() -> None:
    with NvmlProbe() as probe:
        reading = probe.read()
    assert reading.problem == ""
    assert reading.driver
    assert reading.gpus
    for gpu in reading.gpus:
        assert gpu.uuid.startswith("GPU-")
        assert gpu.memory_used is not None
        assert gpu.memory_total is not None
        assert 0 <= gpu.memory_used <= gpu.memory_total
        assert gpu.compute_capability is not None
        assert gpu.compute_capability >= (5, 0)
        assert gpu.temperature is None or 0 < gpu.temperature < 120
        assert gpu.xids == ()
        assert not [reason for reason in judge(gpu).unusable if reason.fault]
