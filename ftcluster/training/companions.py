"""The other ranks of a training started by hand: processes on this machine, which end with it.

python -m ftcluster.training.companions HOST PORT RANK SIZE DEVICE
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ftcluster.config.environment import of_child
from ftcluster.engine.sharded.ranks import Seat
from ftcluster.training.sharding import free_port, serve

_GRACE = 30.0  # seconds for ranks to leave once rank 0 has


@contextmanager
def companions(ranks: int, device: str, threads: int, logs: Path) -> Iterator[Seat | None]:
    """Start ranks 1 and up, which write ``logs/rank-N.log``; yields rank 0's seat, or None where it is alone."""
    if ranks == 1:
        yield None
        return
    logs.mkdir(parents=True, exist_ok=True)
    seat = Seat("127.0.0.1", free_port(), 0, ranks)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, ranks):
            words = [seat.host, str(seat.port), str(rank), str(ranks), device]
            environment = of_child({"OMP_NUM_THREADS": str(threads)} if threads else {})
            with (logs / f"rank-{rank}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "ftcluster.training.companions", *words],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        start_new_session=True,  # Ctrl-C is rank 0's to act on
                    )
                )
        yield seat
    finally:
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            process.kill()
            process.wait()


def main() -> None:
    host, port, rank, size, device = sys.argv[1:]
    serve(Seat(host, int(port), int(rank), int(size)), device)


if __name__ == "__main__":
    main()
