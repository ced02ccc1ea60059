"""What this machine has: CPUs, memory, disk, and the build of torch that has to match its GPUs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Machine:
    """CPUs this process may use; bytes of memory."""

    cpus: int
    memory_total: int
    memory_available: int


@dataclass(frozen=True)
class TorchBuild:
    """``cuda`` is the CUDA version torch was built for, empty for a CPU build."""

    version: str
    cuda: str
    usable_gpus: int
    architectures: tuple[str, ...]  # such as sm_90


def machine() -> Machine:
    """CPUs and memory now."""
    memory = psutil.virtual_memory()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(allowed, int(memory.total), int(memory.available))


def free_disk(folder: Path) -> int:
    """Bytes free where ``folder`` is, or would be made."""
    return shutil.disk_usage(existing_parent(folder)).free


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def torch_build() -> TorchBuild:
    """Imports torch: 1 to 2 seconds."""
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return TorchBuild(
        str(torch.__version__), torch.version.cuda or "", usable, tuple(torch.cuda.get_arch_list()) if usable else ()
    )
