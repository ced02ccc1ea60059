"""Looks at this machine: CPUs, memory, disk, the build of torch that has to match its GPUs, and whose processes run.

GPUs are looked at by a ``Probe``; this module only says which of the processes on them are ours.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import psutil

import ftcluster
from ftcluster.cluster.inventory import Gpu, GpuProcess, GpuReading, Inventory, Machine, TorchBuild, Versions
from ftcluster.cluster.probe import Probe

_RAYLET = "raylet"  # the process that is the parent of all of a node's workers
_TITLE = "ray::"  # how Ray names a worker's process after what it runs
_NOT_WORK = ("IDLE", "DashboardAgent", "RuntimeEnvAgent", "Witness")  # waiting, Ray's own, and whoever looks around


def read_machine() -> Machine:
    """CPUs and memory now."""
    memory = psutil.virtual_memory()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(allowed, int(memory.total), int(memory.available))


def read_torch_build() -> TorchBuild:
    """Imports torch: 1 to 2 seconds."""
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return TorchBuild(
        str(torch.__version__), torch.version.cuda or "", usable, tuple(torch.cuda.get_arch_list()) if usable else ()
    )


def read_versions() -> Versions:
    """As installed here; nothing is imported."""
    packages = ("torch", "transformers", "peft", "deepspeed", "ray")
    found = {name: installed_version(name) for name in packages}
    return Versions(python=platform.python_version(), ftcluster=ftcluster.__version__, **found)


def installed_version(name: str) -> str:
    """Of a package, as its installer wrote it down; empty: it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def read_inventory(probe: Probe) -> Inventory:
    """All of it; on a node of a Ray cluster also what its workers run."""
    family = our_processes()
    return Inventory(
        socket.gethostname(),
        read_machine(),
        with_owners(probe.read(), {item.pid for item in family}),
        _running(family),
        read_versions(),
    )


def free_disk(folder: Path) -> int:
    """Bytes free where ``folder`` is, or would be made."""
    return shutil.disk_usage(existing_parent(folder)).free


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def our_processes() -> list[psutil.Process]:
    """The processes that belong to this one: of a Ray worker all workers of its node, else it and its children."""
    here = psutil.Process()
    root = next((parent for parent in here.parents() if parent.name() == _RAYLET), here)
    return [root, *root.children(recursive=True)]


def read_gpus(probe: Probe) -> GpuReading:
    """What a probe tells now, and which of the processes it found are ours."""
    return with_owners(probe.read(), {process.pid for process in our_processes()})


def with_owners(reading: GpuReading, ours: Collection[int]) -> GpuReading:
    """The reading with names and owners of the processes it found, where they are not known yet."""
    return replace(reading, gpus=tuple(_owned(gpu, ours) for gpu in reading.gpus))


def _owned(gpu: Gpu, ours: Collection[int]) -> Gpu:
    if not gpu.processes:
        return gpu
    return replace(gpu, processes=tuple(_named(process, ours) for process in gpu.processes))


def _named(process: GpuProcess, ours: Collection[int]) -> GpuProcess:
    if process.pid in ours and process.ours is None:
        process = replace(process, ours=True)
    try:
        found = psutil.Process(process.pid)
        name, user = found.name(), found.username()
    except psutil.Error:  # in a container the driver may tell process ids of the machine outside
        return process
    return replace(process, name=name, user=user, ours=False if process.ours is None else process.ours)


def _running(family: Collection[psutil.Process]) -> tuple[str, ...]:
    """Titles of the workers that do something; empty outside a Ray cluster."""
    titles = []
    for process in family:
        if process.pid == os.getpid():
            continue
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:  # ended meanwhile
            continue
        name = title.removeprefix(_TITLE).partition(".")[0].strip(" _")
        if title.startswith(_TITLE) and name not in _NOT_WORK:
            titles.append(name)
    return tuple(sorted(titles))
