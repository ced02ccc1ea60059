"""A rank's own watch: when a call takes nearly as long as a rank may wait for another, it writes down all its stacks.

It must do so before anybody's patience ends, since what follows ends the process. So a group that hangs leaves
``rank-N.stacks`` of every rank but those that are stopped or gone: of the ones that wait, and of the one they wait for.
Owns one thread, which sleeps; a call costs nothing but two assignments.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_EARLY = 0.8  # of the limit; ranks begin a call together, but some wait in it from its beginning
_LOOKS = 40  # within the limit
_PAUSE = 10.0  # seconds between looks, at most


def stacks_file(folder: Path, rank: int) -> Path:
    """Where a rank's stacks are, if it wrote any."""
    return folder / f"rank-{rank}.stacks"


def wrote(folder: Path, rank: int, lately: float) -> bool:
    """Whether a rank left its stacks within the last ``lately`` seconds; older ones are of another time it hung."""
    try:
        return stacks_file(folder, rank).stat().st_mtime > time.time() - lately
    except OSError:
        return False


def write_stacks(path: Path, head: str) -> None:
    """The stacks of all threads of this process.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("w") as file:
        file.write(f"{head}\nprocess {os.getpid()} on {socket.gethostname()}\n\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)


@dataclass(eq=False)
class _Call:
    name: str
    folder: Path
    began: float
    written: Path | None = None
    over: bool = False


class Watch:
    """``limit`` in seconds, 0 for none, may be changed at any time."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._limit = 0.0
        self._call: _Call | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._lock = threading.Lock()  # held to write stacks, and to take them back

    @property
    def limit(self) -> float:
        return self._limit

    @limit.setter
    def limit(self, seconds: float) -> None:
        self._limit = seconds
        if seconds and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
            self._thread.start()

    @contextmanager
    def over(self, name: str, folder: Path | None) -> Iterator[None]:
        """Watch a call. If it ends well after all, its stacks are taken back; without a folder nobody wants them."""
        if folder is None:
            yield
            return
        call = self._call = _Call(name, folder, time.monotonic())
        try:
            yield
        finally:  # of a call that was raised out of, the stacks stay
            self._call = None
        if call.written is not None or self._due(call):
            with self._lock, suppress(OSError):
                call.over = True
                if call.written:
                    call.written.unlink()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _due(self, call: _Call) -> bool:
        return 0 < _EARLY * self._limit <= time.monotonic() - call.began

    def _run(self) -> None:
        while not self._closed.wait(min(max(self._limit / _LOOKS, 0.02), _PAUSE) if self._limit else _PAUSE):
            call = self._call
            if call is None or call.written or not self._due(call):
                continue
            with self._lock, suppress(OSError):  # a folder that this machine does not have
                if not call.over:
                    call.written = stacks_file(call.folder, self._rank)
                    seconds = time.monotonic() - call.began
                    write_stacks(call.written, f"rank {self._rank} is in {call.name} for {seconds:.0f} s")
