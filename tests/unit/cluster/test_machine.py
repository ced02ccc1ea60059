"""CPUs, memory, disk, torch, and whose processes are on a card."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ftcluster.cluster.inventory import Gpu, GpuProcess, GpuReading
from ftcluster.cluster.machine import (
    existing_parent,
    free_disk,
    installed_version,
    our_processes,
    read_inventory,
    read_machine,
    read_torch_build,
    read_versions,
    with_owners,
)
from ftcluster.cluster.nvml import NvmlProbe

NO_SUCH_PID = 2**22 + 1  # beyond what Linux hands out


def test_a_machine_has_cpus_and_memory() -> None:
    here = read_machine()
    assert 1 <= here.cpus <= (os.cpu_count() or 1)
    assert 0 < here.memory_available <= here.memory_total


def test_a_folder_that_is_not_there_yet_is_measured_where_it_will_be(tmp_path: Path) -> None:
    assert existing_parent(tmp_path / "a" / "b") == tmp_path
    assert free_disk(tmp_path / "a" / "b") > 0


def test_torch_tells_its_version_and_build() -> None:
    import torch

    build = read_torch_build()
    assert build.version == torch.__version__
    assert (build.cuda == "") == (torch.version.cuda is None)


def test_versions_are_those_that_a_program_here_would_import() -> None:
    import torch

    import ftcluster

    found = read_versions()
    assert (found.torch, found.ftcluster) == (torch.__version__, ftcluster.__version__)
    assert found.python.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert installed_version("no-such-package") == ""


def test_a_child_is_ours_and_a_parent_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        family = {process.pid for process in our_processes()}
        child.communicate(b"\n")
    assert {os.getpid(), child.pid} <= family
    assert os.getppid() not in family


def test_processes_on_a_card_get_names_and_owners() -> None:
    found = (GpuProcess(os.getpid(), 10), GpuProcess(os.getppid(), 20), GpuProcess(NO_SUCH_PID, 30))
    reading = GpuReading((Gpu(0, "GPU-a", processes=found), Gpu(1, "GPU-b")))

    mine, foreign, unseen = with_owners(reading, {os.getpid()}).gpus[0].processes or ()
    assert (mine.ours, foreign.ours, unseen.ours) == (True, False, None)
    assert mine.name
    assert mine.user
    assert (unseen.name, unseen.memory) == ("", 30)


def test_what_is_known_about_a_process_already_stays() -> None:
    reading = GpuReading((Gpu(0, "GPU-a", processes=(GpuProcess(os.getppid(), ours=True),)),))
    assert with_owners(reading, ()).gpus[0].processes[0].ours is True  # type: ignore[index]


def test_an_inventory_outside_a_cluster_runs_nothing() -> None:
    found = read_inventory(NvmlProbe())
    assert found.hostname
    assert found.running == ()
