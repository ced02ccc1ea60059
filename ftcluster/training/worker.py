"""What runs inside a host: takes stretches of trials one after the other, keeps the base warm between them.

A job ends with a value, never with an exception: whoever sent it must be able to tell a user's mistake (not
retried) from a vanished process (retried elsewhere) without reading tracebacks.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ftcluster.config.compose import from_dict
from ftcluster.config.schema import RunConfig
from ftcluster.config.sharding import shards
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.engine.checkpoint import storing
from ftcluster.engine.faults import is_device_fault
from ftcluster.engine.sharded.ranks import RankLost, Seat
from ftcluster.engine.shortage import give_back, is_shortage, let_go, word_left
from ftcluster.errors import FtclusterError, TrialError, first_line
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.bench import Bench, opened
from ftcluster.training.fitting import Halved, does_not_fit, halve, in_use, in_words
from ftcluster.training.foretelling import foretell, note_foretold, note_peak, refuse
from ftcluster.training.loop import Progress
from ftcluster.training.requests import Work, alone
from ftcluster.training.session import Session, loader_of, start_records

ERROR_LOG = "error.log"


@dataclass(frozen=True)
class Job:
    """A stretch of a run: train what is in ``folder`` up to step ``until`` (None: to the end)."""

    config: Mapping[str, Any]
    folder: str
    prepared: str
    until: int | None
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """A report, or why there is none. ``stopped``: asked to stop, saved, and resumable; ``warnings`` are for people.

    ``refused`` says why it was not even begun beside the trials that were there.
    """

    report: TrialReport | None = None
    error: FtclusterError | None = None
    stopped: bool = False
    refused: str = ""
    warnings: tuple[str, ...] = ()


class Worker:
    """Trains stretches, one or several at a time; ``stop`` may be called from another thread meanwhile."""

    def __init__(self, threads: int = 0, *, gpus: bool = True) -> None:
        """``gpus=False``: a host that reserved none, on a node that may have some for others."""
        self._threads = threads
        self._gpus = gpus
        self.bench = Bench()
        self._stop = threading.Event()
        self._stopped: set[str] = set()  # folders of stretches that are to return

    def lead(self, seat: Seat) -> None:
        """Lead a group of ranks from now on."""
        self.bench.lead(seat)

    def run(self, job: Job, observe: Callable[[Progress], None] = lambda _: None) -> Outcome:
        """``work``, carried out alone."""
        return alone(self.work(job, observe))

    def config(self, job: Job) -> RunConfig:
        """A job's config, on this host's devices, and with the micro-batch that fits where its own did not.

        Raises:
            ConfigError: it is none.
        """
        config = in_use(from_dict(job.config), Path(job.folder))
        if not self._gpus and config.engine.device == "auto":
            config = replace(config, engine=replace(config.engine, device="cpu"))
        return config

    def work(self, job: Job, observe: Callable[[Progress], None] = lambda _: None) -> Work[Outcome]:
        """Train a stretch; every failure comes back in the outcome and is written to the run's spool."""
        folder = RunFolder(Path(job.folder))
        self._stopped.discard(job.folder)
        warnings: list[str] = []
        config: RunConfig | None = None
        try:
            config = self.config(job)
            self.bench.watch(folder.path)
            if threads := config.engine.threads or self._threads:
                torch.set_num_threads(threads)
            with storing("the run", folder.path):
                return (yield from self._train(config, folder, job, observe, warnings))
        except Exception as error:
            if is_device_fault(error):  # this process is of no use any more
                remedy = "the trial goes on from its newest checkpoint in another process"
                lost = RankLost(f"the device failed: {first_line(error)}", where=folder.path.name, remedy=remedy)
                return Outcome(error=lost, warnings=tuple(warnings))
            if isinstance(error, FtclusterError):
                return Outcome(error=error, warnings=tuple(warnings))
            if config and is_shortage(error):  # of no pass, so that smaller ones would not help
                return Outcome(error=does_not_fit(config, folder.path, error))
            log = folder.path / ERROR_LOG  # a defect of ours or of a library: kept in full, told in a line
            log.write_text(traceback.format_exc())
            return Outcome(
                error=TrialError(f"{type(error).__name__}: {error}", where=folder.path.name, remedy=f"see {log}")
            )

    def _train(
        self,
        config: RunConfig,
        folder: RunFolder,
        job: Job,
        observe: Callable[[Progress], None],
        warnings: list[str],
    ) -> Work[Outcome]:
        with closing(SpoolTracker(folder.path)) as tracker:

            def warn(text: str) -> None:
                warnings.append(text)
                tracker.tags({"ftcluster.warning": text})

            def lighter(sizes: tuple[int, int], error: Exception) -> RunConfig:
                smaller = _smaller(config, folder.path, sizes, error)
                told = f"out of memory with {in_words(config)}; it goes on from its newest checkpoint with "
                warn(told + in_words(smaller))
                tracker.tags({"ftcluster.micro_batch": in_words(smaller)})
                return smaller

            self._begin(config, folder, job, tracker)
            if told := word_left(folder.path):  # rank 0 never heard of it
                config = lighter(_sizes(config, job.prepared), torch.OutOfMemoryError(told))
            outcome: Outcome | None = None
            while outcome is None:
                session = Session(
                    config,
                    folder,
                    job.prepared,
                    self.bench,
                    tracker,
                    observe=observe,
                    stopping=lambda: self._stop.is_set() or job.folder in self._stopped,
                    warn=warn,
                )
                with session:
                    observe(session.progress)
                    try:
                        report = yield from session.work(job.until)
                    except Exception as error:
                        if not is_shortage(error):
                            raise
                        let_go(error)
                        config = lighter(session.sizes(job.until), error)
                        if shards(config):  # no group survives it; whoever starts another has it begin with these
                            raise Halved(warnings[-1], where=folder.path.name, remedy="resume it") from None
                    else:
                        note_peak(tracker, folder.path, session.peak)
                        short = report.step < min(job.until or session.plan.total, session.plan.total)
                        outcome = Outcome(report=report, stopped=short, warnings=tuple(warnings))
                if outcome is None:
                    del session
                    give_back()
                    if foretold := foretell(config, job.prepared):
                        note_foretold(tracker, folder.path, foretold)
            return outcome

    def _begin(self, config: RunConfig, folder: RunFolder, job: Job, tracker: SpoolTracker) -> None:
        """What is recorded of a run once, and what memory it will take.

        Raises:
            UsageError: it takes more than there is, and has not begun yet.
        """
        fresh = not folder.facts.exists()
        if fresh:
            start_records(tracker, config, dict(job.tags))
        tracker.state(RunState.RUNNING)
        if fresh and (foretold := foretell(config, job.prepared)):
            refuse(config, foretold)
            note_foretold(tracker, folder.path, foretold)

    def stop(self, folder: str = "") -> None:
        """Save at the next step and return; further jobs return at once after one step.

        ``folder``: only the stretch that trains there now.
        """
        if folder:
            self._stopped.add(folder)
        else:
            self._stop.set()


def _sizes(config: RunConfig, prepared: str) -> tuple[int, int]:
    """Tokens of the largest micro-batch of an epoch, and of the longest row."""
    loader = loader_of(config, opened(prepared))
    return len(loader.widest(0, loader.steps_per_epoch).tokens_T), loader.longest


def _smaller(config: RunConfig, folder: Path, sizes: tuple[int, int], error: Exception) -> RunConfig:
    """The config to go on with where a pass did not fit.

    Raises:
        TrialError: nothing smaller is left to try.
    """
    made = halve(config, folder, *sizes)
    if made is None:
        raise does_not_fit(config, folder, error) from None
    return made
