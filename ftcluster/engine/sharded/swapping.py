"""State that DeepSpeed keeps in files on a fast local disk, in a folder for each engine.

DeepSpeed names its files by rank and place in the model, so two trials on one machine would write into each other's.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from ftcluster.errors import UsageError

_SECTIONS = ("offload_optimizer", "offload_param")


def with_own_folder(config: Mapping[str, Any], user: object) -> dict[str, Any]:
    """DeepSpeed's config with a new folder wherever it offloads to a disk; it goes with its ``user``.

    What processes of this machine left that were killed is removed.

    Raises:
        UsageError: the machine lacks what that takes.
    """
    zero = dict(config["zero_optimization"])
    for section in _SECTIONS:
        if (zero.get(section) or {}).get("device") == "nvme":
            zero[section] = {**zero[section], "nvme_path": str(_own(Path(zero[section]["nvme_path"]), user))}
    if zero != config["zero_optimization"]:
        _check_machine()
    return {**config, "zero_optimization": zero}


def _own(disk: Path, user: object) -> Path:
    prefix = f"ftcluster-{socket.gethostname()}-"
    for left in disk.glob(f"{prefix}*"):
        if not psutil.pid_exists(int(left.name.removeprefix(prefix).partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    try:
        own = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=disk))
    except OSError as error:
        remedy = "name a folder that is there and may be written"
        raise UsageError(f"cannot be used: {error.strerror}", where=f"engine.nvme={disk}", remedy=remedy) from error
    weakref.finalize(user, shutil.rmtree, own, ignore_errors=True)
    return own


def _check_machine() -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        remedy = "install libaio with its headers (apt install libaio-dev), ninja and a C++ compiler; or offload to cpu"
        raise UsageError(
            "offload to nvme needs libaio, which is not on this machine", where=socket.gethostname(), remedy=remedy
        )
