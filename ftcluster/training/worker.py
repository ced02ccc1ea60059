"""What runs inside a host: takes stretches of trials one after the other, keeps the base warm between them.

A job ends with a value, never with an exception: whoever sent it must be able to tell a user's mistake (not
retried) from a vanished process (retried elsewhere) without reading tracebacks.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ftcluster.config.compose import from_dict
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.engine.checkpoint import storing
from ftcluster.engine.sharded.ranks import Seat
from ftcluster.errors import FtclusterError, TrialError
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.bench import Bench
from ftcluster.training.loop import Progress
from ftcluster.training.requests import Work, alone
from ftcluster.training.session import Session, start_records

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

    def __init__(self, threads: int = 0, *, gpus: bool = True, seat: Seat | None = None) -> None:
        """``gpus=False``: a host that reserved none, on a node that may have some for others.

        ``seat``: where this process leads the ranks of a sharded trial.
        """
        self._threads = threads
        self._gpus = gpus
        self.bench = Bench(seat)
        self._stop = threading.Event()

    def lead(self, seat: Seat) -> None:
        """Lead a group of ranks from now on."""
        self.bench.lead(seat)

    def run(self, job: Job, observe: Callable[[Progress], None] = lambda _: None) -> Outcome:
        """``work``, carried out alone."""
        return alone(self.work(job, observe))

    def config(self, job: Job) -> RunConfig:
        """A job's config, on this host's devices.

        Raises:
            ConfigError: it is none.
        """
        config = from_dict(job.config)
        if not self._gpus and config.engine.device == "auto":
            config = replace(config, engine=replace(config.engine, device="cpu"))
        return config

    def work(self, job: Job, observe: Callable[[Progress], None] = lambda _: None) -> Work[Outcome]:
        """Train a stretch; every failure comes back in the outcome and is written to the run's spool."""
        folder = RunFolder(Path(job.folder))

        try:
            config = self.config(job)
            if threads := config.engine.threads or self._threads:
                torch.set_num_threads(threads)
            with storing("the run", folder.path):
                return (yield from self._train(config, folder, job, observe))
        except FtclusterError as error:
            return Outcome(error=error)
        except torch.OutOfMemoryError as error:
            remedy = "halve optim.micro_batch (the batch size and the result stay the same)"
            return Outcome(error=TrialError(f"out of GPU memory: {error}", where=folder.path.name, remedy=remedy))
        except Exception as error:  # a defect of ours or of a library: kept in full, told in a line
            log = folder.path / ERROR_LOG
            log.write_text(traceback.format_exc())
            return Outcome(
                error=TrialError(f"{type(error).__name__}: {error}", where=folder.path.name, remedy=f"see {log}")
            )

    def _train(
        self, config: RunConfig, folder: RunFolder, job: Job, observe: Callable[[Progress], None]
    ) -> Work[Outcome]:
        tracker = SpoolTracker(folder.path)
        try:
            if not folder.facts.exists():
                start_records(tracker, config, dict(job.tags))
            tracker.state(RunState.RUNNING)

            warnings: list[str] = []

            def warn(text: str) -> None:
                warnings.append(text)
                tracker.tags({"ftcluster.warning": text})

            session = Session(
                config,
                folder,
                job.prepared,
                self.bench,
                tracker,
                observe=observe,
                stopping=self._stop.is_set,
                warn=warn,
            )
            with session:
                observe(session.progress)
                report = yield from session.work(job.until)
                short = report.step < min(job.until or session.plan.total, session.plan.total)
            return Outcome(report=report, stopped=short, warnings=tuple(warnings))
        finally:
            tracker.close()

    def stop(self) -> None:
        """Save at the next step and return; further jobs return at once after one step."""
        self._stop.set()
