"""What runs inside a host's process: takes stretches from several callers at once and trains them together.

A stretch that cannot join those that are there is sent back with the reason; alone it is always taken in.

Callers wait in threads of their own; all training happens in one thread, which keeps the base and its engine warm.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ftcluster.engine.precision import choose_device
from ftcluster.engine.sharded.ranks import RankLost, Seat, rank_zero
from ftcluster.engine.sharded.watch import stacks_file, write_stacks
from ftcluster.errors import TrialError
from ftcluster.training.admission import BUDGET_CPU, BUDGET_CUDA, Admission
from ftcluster.training.loop import Progress
from ftcluster.training.pack import Pack
from ftcluster.training.sharding import serve
from ftcluster.training.worker import Job, Outcome, Worker


@dataclass(eq=False)
class _Stretch:
    """A job, who waits for its end, and how far it is."""

    job: Job
    waiting: Future[Outcome] = field(default_factory=Future)
    progress: Progress | None = None

    def note(self, progress: Progress) -> None:
        self.progress = progress


@dataclass(frozen=True)
class Pulse:
    """How far the running stretches are, by their folders; and signs of life so far, of which a hung host has no more.

    They are counted where work is done: passes of training and evaluation, tokens of answers, calls of several ranks.
    """

    progress: Mapping[str, Progress]
    beats: int


class HostWorker:
    """``run``, ``peek``, ``dump`` and ``stop`` may be called from any thread."""

    def __init__(self, threads: int = 0, *, gpus: bool = True) -> None:
        """``gpus=False``: a host that reserved none, on a node that may have some for others."""
        self._worker = Worker(threads, gpus=gpus)
        self._threads, self._gpus = threads, gpus
        self._rank = 0
        self._budget = BUDGET_CUDA if gpus else BUDGET_CPU
        self._admission = Admission(self._worker.bench, self._budget)
        self._inbox: queue.SimpleQueue[_Stretch] = queue.SimpleQueue()
        self._here: dict[_Stretch, None] = {}  # taken in and not ended yet
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # held to put something into the inbox, and to end the thread that reads it

    def meet(self, address: str, ranks: int) -> Seat:
        """Lead a group of ranks, at this machine's ``address``; returns rank 0's seat."""
        seat = rank_zero(address, ranks)
        self._worker.lead(seat)
        return seat

    def follow(self, meeting: Seat, rank: int) -> None:
        """Take part in what rank 0 trains, until it closes the group; for as long as this takes."""
        torch.set_num_threads(max(1, self._threads))
        self._rank = rank
        serve(meeting.of(rank), choose_device("auto" if self._gpus else "cpu").type)

    def run(self, job: Job) -> Outcome:
        """Train a stretch beside whatever else is here, and wait for its end."""
        stretch = _Stretch(job)
        with self._lock:
            self._inbox.put(stretch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="training", daemon=True)
                self._thread.start()
        return stretch.waiting.result()

    def peek(self) -> Pulse:
        """Answered also while training hangs, unless the whole process is stopped."""
        progress = {stretch.job.folder: stretch.progress for stretch in tuple(self._here) if stretch.progress}
        return Pulse(progress, self._worker.bench.beats)

    def dump(self, folder: str) -> None:
        """Write down what every thread of this process is doing, as ``rank-N.stacks``.

        Raises:
            OSError: the folder cannot be written.
        """
        write_stacks(stacks_file(Path(folder), self._rank), "no sign of life")

    def stop(self, folder: str = "") -> None:
        """Save everything at the next step and return; further jobs return after one step.

        ``folder``: only the stretch that trains there now.
        """
        self._worker.stop(folder)

    def _serve(self) -> None:
        pack: Pack[_Stretch, Outcome] = Pack(self._budget)
        try:
            while True:
                self._admit(pack)
                for stretch, outcome in pack.turn():
                    self._end(stretch, outcome)
        except BaseException as error:  # the end of this thread: nobody may wait for ever, and the next job needs one
            with self._lock:
                self._thread = None
                with suppress(queue.Empty):
                    while True:
                        self._here[self._inbox.get_nowait()] = None
                for stretch in tuple(self._here):
                    self._here.pop(stretch)
                    stretch.waiting.set_exception(error)
            raise

    def _admit(self, pack: Pack[_Stretch, Outcome]) -> None:
        """Take in what has arrived; with nothing to do, wait for it."""
        while not len(pack) or not self._inbox.empty():
            stretch = self._inbox.get()
            if objection := self._objection(stretch.job):
                stretch.waiting.set_result(Outcome(refused=objection))
                continue
            self._here[stretch] = None
            if (ended := pack.add(stretch, self._worker.work(stretch.job, stretch.note))) is not None:
                self._end(stretch, ended)

    def _objection(self, job: Job) -> str:
        here = [(self._worker.config(other.job), other.job.prepared) for other in self._here]
        try:
            return self._admission.objection((self._worker.config(job), job.prepared), here) if here else ""
        except RankLost as error:  # by trying what a pass needs; nobody should join what is left
            return str(error)
        except Exception:  # whatever is wrong with this one, its own training tells of it
            return ""

    def _end(self, stretch: _Stretch, outcome: Outcome | Exception) -> None:
        if isinstance(outcome, Exception):  # what a worker could not even write down, on a full disk for example
            problem, remedy = f"{type(outcome).__name__}: {outcome}", "resume it once that is mended"
            outcome = Outcome(error=TrialError(problem, where=stretch.job.folder, remedy=remedy))
        self._here.pop(stretch)
        stretch.waiting.set_result(outcome)
