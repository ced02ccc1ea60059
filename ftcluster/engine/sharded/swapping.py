"""State that DeepSpeed keeps in files on a fast local disk, in a folder for each engine.

DeepSpeed names its files by rank and place in the model, so two trials on one machine would write into each other's.
Whoever uses a folder holds a lock on a file in it, which ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import shutil
import socket
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ftcluster.errors import UsageError

_SECTIONS = ("offload_optimizer", "offload_param")
_PREFIX, _LOCK = "ftcluster-", "lock"


def with_own_folder(config: Mapping[str, Any], user: object) -> dict[str, Any]:
    """DeepSpeed's config with a new folder wherever it offloads to a disk; it goes with its ``user``.

    What killed processes left there is removed.

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
    try:
        for left in disk.glob(f"{_PREFIX}*/{_LOCK}"):
            with left.open("rb") as file:
                if _locked(file):
                    shutil.rmtree(left.parent, ignore_errors=True)
        own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=disk))
        lock = (own / _LOCK).open("wb")
    except OSError as error:
        remedy = "name a folder that is there and may be written"
        raise UsageError(f"cannot be used: {error.strerror}", where=f"engine.nvme={disk}", remedy=remedy) from error
    _locked(lock)
    weakref.finalize(user, _leave, own, lock)
    return own


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leave(folder: Path, file: IO[bytes]) -> None:
    file.close()
    shutil.rmtree(folder, ignore_errors=True)


def _check_machine() -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        remedy = "install libaio with its headers (apt install libaio-dev), ninja and a C++ compiler; or offload to cpu"
        raise UsageError(
            "offload to nvme needs libaio, which is not on this machine", where=socket.gethostname(), remedy=remedy
        )
