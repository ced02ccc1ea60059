"""Carries a training through the loss of its ranks: starts another group, which goes on from the newest checkpoint.

Without a new checkpoint in between it is tried twice, then the run is left to be resumed by hand. One rank alone trains
in this process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ftcluster.config.schema import RunConfig
from ftcluster.engine.precision import choose_device
from ftcluster.engine.sharded.ranks import RankLost
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.companions import companions
from ftcluster.training.leading import Leader
from ftcluster.training.loop import Progress
from ftcluster.training.worker import Job, Outcome, Worker

RETRIES = 2  # of a training whose ranks were lost, from one checkpoint


def train(
    job: Job,
    config: RunConfig,
    observe: Callable[[Progress], None],
    stop: threading.Event,
    tell: Callable[[str], None],
) -> Outcome:
    """Train a run to its end, or until ``stop``, or until its ranks are lost once more than they may be."""
    begun, losses = -1, 0
    while True:
        group = _Group(job, config, observe, stop)
        outcome = group.train()
        if not isinstance(outcome.error, RankLost) or stop.is_set():
            return outcome
        losses = losses + 1 if group.began <= begun else 1
        begun = max(begun, group.began)
        if losses > RETRIES:
            return outcome
        told = str(outcome.error)
        tell(told)
        with closing(SpoolTracker(Path(job.folder))) as tracker:
            tracker.tags({"ftcluster.warning": told})


class _Group:
    """The ranks of one attempt, from their start to their end."""

    def __init__(self, job: Job, config: RunConfig, observe: Callable[[Progress], None], stop: threading.Event) -> None:
        self._job, self._config, self._observe, self._stop = job, config, observe, stop
        self.began = -1  # the step it went on from; -1: it never came so far

    def train(self) -> Outcome:
        engine, cluster = self._config.engine, self._config.cluster
        if cluster.ranks == 1:
            return self._alone()
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
            self._observe(progress)

        with closing(worker.bench):
            return worker.run(self._job, note)

    def _note(self, progress: Progress) -> None:
        if self.began < 0:
            self.began = progress.step
        self._observe(progress)
