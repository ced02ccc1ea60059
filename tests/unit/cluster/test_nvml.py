"""GPUs as the driver sees them; a machine without a driver is no error."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ftcluster.cluster.inventory import existing_parent, free_disk, machine, torch_build
from ftcluster.cluster.nvml import GpuReading, read_gpus

HAS_DRIVER = shutil.which("nvidia-smi") is not None


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has a driver")
def test_without_a_driver_there_are_no_gpus_and_one_sentence_why() -> None:
    assert read_gpus() == GpuReading((), problem="no NVIDIA driver on this machine")


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_DRIVER, reason="needs an NVIDIA GPU")
def test_every_gpu_has_a_uuid_memory_and_a_capability() -> None:
    reading = read_gpus()
    assert reading.problem == ""
    assert reading.driver
    for gpu in reading.gpus:
        assert gpu.uuid.startswith("GPU-")
        assert 0 <= gpu.memory_used <= gpu.memory_total
        assert gpu.compute_capability >= (5, 0)
        assert gpu.recovery == ""


def test_a_machine_has_cpus_and_memory() -> None:
    here = machine()
    assert 1 <= here.cpus <= (os.cpu_count() or 1)
    assert 0 < here.memory_available <= here.memory_total


def test_a_folder_that_is_not_there_yet_is_measured_where_it_will_be(tmp_path: Path) -> None:
    assert existing_parent(tmp_path / "a" / "b") == tmp_path
    assert free_disk(tmp_path / "a" / "b") > 0


def test_torch_tells_its_version_and_build() -> None:
    import torch

    build = torch_build()
    assert build.version == torch.__version__
    assert (build.cuda == "") == (torch.version.cuda is None)
