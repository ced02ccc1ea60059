"""Rank 0 of a training started by hand, in a process of its own, and what its starter hears of it.

    starter   Leader ... wait()  <--- progress, signs of life, outcome ---  python -m ftcluster.training.leading HANDLE
                                 ---------------- stop --------------->

So a rank 0 that hangs, or that a library ends, is a loss like that of any other rank.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from ftcluster.engine.sharded.ranks import RankLost, Seat
from ftcluster.training.companions import Company, obey_the_starter
from ftcluster.training.loop import Progress
from ftcluster.training.worker import Job, Outcome, Worker
from ftcluster.units import format_seconds

_TICK = 0.2  # seconds between looks at requests to stop
_BEAT = 1.0  # seconds between signs of life, at most
_START = 1800.0  # seconds to import everything, meet the others and load, at least
_SLACK = 1.25  # the ranks find out by themselves which one hangs, a little earlier,
_TELLING = 5.0  # and need some seconds to tell
_STOP = "stop"
_GONE = (EOFError, OSError)  # how a pipe says that there is nobody at its other end


class Leader:
    """The starter's side."""

    def __init__(self, company: Company, job: Job, hang_after: float) -> None:
        """Start it. ``hang_after``: seconds without a sign of life, 0 for no limit."""
        self._company, self._hang_after = company, hang_after
        ours, its = socket.socketpair()
        listening = company.seat.listening
        with its:
            company.start(0, __name__, [str(its.fileno())], [its.fileno(), listening])
        os.close(listening)
        self._pipe = Connection(ours.detach())
        self._say((job, company.seat, company.threads))

    def wait(self, observe: Callable[[Progress], None], stopping: Callable[[], bool]) -> Outcome:
        """How the training ended; that a process is gone or hangs is a ``RankLost``."""
        heard, ended, begun, asked = time.monotonic(), math.inf, False, False
        while True:
            if stopping() and not asked:
                asked = True
                self._say(_STOP)
            try:
                if self._pipe.poll(_TICK):
                    heard = time.monotonic()
                    match self._pipe.recv():
                        case Progress() as progress:
                            begun = True
                            observe(progress)
                        case Outcome() as outcome:
                            return outcome
                    continue  # first all that it said, and whoever asks to stop must not wait for a silence
            except _GONE:
                time.sleep(_TICK)
            now = time.monotonic()
            if who := self._company.ended():
                ended = min(ended, now)
                if now - ended > (0.0 if who.startswith("rank 0") else _TELLING):
                    return _lost(who)
            patience = _TELLING + _SLACK * (self._hang_after if begun else max(self._hang_after, _START))
            if self._hang_after and now - heard > patience:
                self._company.dump()
                told = f"rank 0 on {socket.gethostname()} gave no sign of life for {format_seconds(patience)}"
                return _lost(f"{told}, see rank-*.log for what the ranks were doing")

    def _say(self, words: Any) -> None:
        with suppress(*_GONE):  # the next look tells that it is gone
            self._pipe.send(words)


def _lost(why: str) -> Outcome:
    remedy = "the trial goes on from its newest checkpoint in another group"
    return Outcome(error=RankLost(f"a process of the group is gone: {why}", remedy=remedy))


def main() -> None:
    obey_the_starter()
    pipe = Connection(int(sys.argv[1]))
    job, seat, threads = pipe.recv()
    _lead(pipe, job, seat, threads)


def _lead(pipe: Connection, job: Job, seat: Seat, threads: int) -> None:
    worker, speaking = Worker(threads), threading.Lock()
    worker.lead(seat)

    def say(words: Any) -> None:
        with speaking, suppress(*_GONE):
            pipe.send(words)

    def listen() -> None:
        beats = 0
        with suppress(*_GONE):
            while True:
                if pipe.poll(_BEAT) and pipe.recv() == _STOP:
                    worker.stop()
                if beats != (beats := worker.bench.beats):
                    say(beats)
        worker.stop()  # nobody wants the result any more

    threading.Thread(target=listen, name="listening", daemon=True).start()
    try:
        say(worker.run(job, say))
    finally:
        worker.bench.close()


if __name__ == "__main__":
    main()
