"""Who owns a run: one process of one boot of one host, so that a number used again is not taken for it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SLACK = 2.0  # seconds; the boot time, which start times are counted from, is rounded


@dataclass(frozen=True)
class Owner:
    """A process, for as long as it lives."""

    host: str
    pid: int
    started: float  # seconds since the boot
    boot: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> Owner:
    """The process that calls."""
    process = psutil.Process()
    return Owner(socket.gethostname(), process.pid, _started(process), _boot())


def is_alive(owner: Owner) -> bool | None:
    """Whether the owner still runs; None for another host, where nobody here can tell."""
    if owner.host != socket.gethostname():
        return None
    if owner.boot != _boot():
        return False
    try:
        process = psutil.Process(owner.pid)
        same = abs(_started(process) - owner.started) < _SLACK
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _started(process: psutil.Process) -> float:
    """The system's clock may be set while a process lives: that moves both times, and not what is between them."""
    return process.create_time() - psutil.boot_time()


def _boot() -> str:
    if _BOOT_ID.exists():
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return str(round(psutil.boot_time()))
