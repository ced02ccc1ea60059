"""The ranks of a training started by hand: processes on this machine, which end with the one that started them.

python -m ftcluster.training.companions HOST PORT RANK SIZE DEVICE

is a rank that follows; rank 0 is started by ``leading``. None of them is this process: what a library keeps of a group
that was lost goes away with them.
"""

from __future__ import annotations

import ctypes
import faulthandler
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ftcluster.config.environment import child_environment
from ftcluster.engine.checkpoint import storing
from ftcluster.engine.sharded.ranks import Seat, rank_zero
from ftcluster.training.sharding import serve

_GRACE = 30.0  # seconds for ranks to leave once rank 0 has
_DUMPING = 1.0  # seconds to write stacks
_LOST = 2.0  # the same, in a group that is lost: whoever can leave does so at once
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


@dataclass
class Company:
    """Where the ranks of a training meet, and their processes."""

    seat: Seat
    logs: Path
    threads: int
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)  # by rank

    def start(self, rank: int, module: str, words: Sequence[str], handles: Sequence[int] = ()) -> None:
        """A rank, which writes ``rank-N.log``; the log also tells of the group before, if that was lost."""
        environment = child_environment(**({"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}))
        with storing("a rank's log", self.logs):
            log = (self.logs / f"rank-{rank}.log").open("ab")
        with log:
            self.processes[rank] = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=handles,
                start_new_session=True,  # Ctrl-C is for who started them to act on
            )

    def ended(self) -> str:
        """Which of the ranks ended, and how; empty: none did."""
        for rank, process in self.processes.items():
            if (code := process.poll()) is not None:
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return f"rank {rank} on {socket.gethostname()} {how}, see rank-{rank}.log"
        return ""

    def dump(self) -> None:
        """Have all ranks write what they are doing into their logs, those that hang too; stopped ones cannot."""
        for process in self.processes.values():
            process.send_signal(signal.SIGUSR1)
        time.sleep(_DUMPING)

    def end(self, grace: float = _LOST) -> None:
        """Wait for them to leave, and kill those that do not: also stopped ones, and those that hang."""
        deadline = time.monotonic() + grace
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in self.processes.values():
            process.kill()
            process.wait()


@contextmanager
def companions(ranks: int, device: str, threads: int, logs: Path) -> Iterator[Company]:
    """Start ranks 1 and up; they and rank 0 end with the block.

    Raises:
        StoreError: their logs cannot be written.
    """
    with storing("a run's folder", logs):
        logs.mkdir(parents=True, exist_ok=True)
    seat = rank_zero("127.0.0.1", ranks)
    company = Company(seat, logs, threads)
    try:
        for rank in range(1, ranks):
            company.start(rank, __name__, [seat.host, str(seat.port), str(rank), str(ranks), device])
        yield company
    except BaseException:  # Ctrl-C for the second time: nobody told the ranks to leave
        company.end(0.0)
        raise
    company.end(_GRACE)


def obey_the_starter() -> None:
    """Signals to a whole job are for who started this rank to act on; with that process gone, this one ends too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # see Company.dump
    if sys.platform == "linux":  # a rank that is stopped, or waits on a GPU, would not notice by itself
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


def main() -> None:
    host, port, rank, size, device = sys.argv[1:]
    obey_the_starter()
    serve(Seat(host, int(port), int(rank), int(size)), device)


if __name__ == "__main__":
    main()
