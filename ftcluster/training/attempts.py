"""Carries a training through what is not its fault, from one checkpoint to the next.

Lost ranks: another group goes on from the newest checkpoint. Without a new one in between it is tried twice, then the
run is left to be resumed by hand. Storage that fails is tried again as long as patience lasts. One rank alone trains in
this process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ftcluster.config.schema import RunConfig
from ftcluster.engine.precision import choose_device
from ftcluster.engine.sharded.ranks import RankLost
from ftcluster.errors import StoreError
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.companions import companions
from ftcluster.training.fitting import Halved
from ftcluster.training.leading import Leader
from ftcluster.training.loop import Progress
from ftcluster.training.patience import Patience
from ftcluster.training.worker import Job, Outcome, Worker

_TICK = 0.2  # seconds between looks at requests to stop
RETRIES = 2  # of a training whose ranks were lost, from one checkpoint


def train(
    job: Job,
    config: RunConfig,
    observe: Callable[[Progress], None],
    stop: threading.Event,
    tell: Callable[[str], None],
) -> Outcome:
    """Train a run to its end, or until ``stop``, or until ranks or storage are lost for longer than they may be."""
    patience = Patience(config.cluster.storage_patience, tell, time.monotonic)
    begun, furthest, losses = -1, -1, 0
    while True:
        group = _Group(job, config, observe, stop)
        outcome = group.train()
        if group.began > begun:  # a checkpoint was written meanwhile
            begun, losses = group.began, 0
        if group.reached > furthest:  # where storage fails again it does so at the same step
            furthest = group.reached
            patience.worked(job.folder)
        match outcome.error:
            case _ if stop.is_set():
                return outcome
            case RankLost():
                halved = isinstance(outcome.error, Halved)
                losses += not halved
                if losses > RETRIES or (group.alone and not halved):  # alone it is this process that is of no use
                    return outcome
                _note(job, str(outcome.error), tell)
            case StoreError():
                if patience.failed(job.folder, outcome.error):
                    return outcome
                while patience.resting and not stop.wait(_TICK):
                    pass
                if stop.is_set():
                    return replace(outcome, error=None, stopped=True)
            case _:
                return outcome


def _note(job: Job, told: str, tell: Callable[[str], None]) -> None:
    tell(told)
    with closing(SpoolTracker(Path(job.folder))) as tracker:
        tracker.tags({"ftcluster.warning": told})


class _Group:
    """The ranks of one attempt, from their start to their end."""

    def __init__(self, job: Job, config: RunConfig, observe: Callable[[Progress], None], stop: threading.Event) -> None:
        self._job, self._config, self._observe, self._stop = job, config, observe, stop
        self.began = self.reached = -1  # the steps it went on from and came to; -1: it never came so far

    def train(self) -> Outcome:
        try:
            return self._alone() if self.alone else self._together()
        except StoreError as error:  # of what the ranks need to start
            return Outcome(error=error)

    @property
    def alone(self) -> bool:
        """Whether it is this process."""
        return self._config.cluster.ranks == 1

    def _together(self) -> Outcome:
        engine, cluster = self._config.engine, self._config.cluster
        device = choose_device(engine.device).type
        with companions(cluster.ranks, device, engine.threads, Path(self._job.folder)) as company:
            leader = Leader(company, self._job, cluster.hang_after)
            outcome = leader.wait(self._note, self._stop.is_set)
            if isinstance(outcome.error, RankLost):
                company.end()
        return outcome

    def _alone(self) -> Outcome:
        worker = Worker(self._config.engine.threads)

        def note(progress: Progress) -> None:
            if self._stop.is_set():
                worker.stop()
            self._note(progress)

        with closing(worker.bench):
            return worker.run(self._job, note)

    def _note(self, progress: Progress) -> None:
        if self.began < 0:
            self.began = progress.step
        self.reached = progress.step
        self._observe(progress)
