"""The background thread of a driver that keeps MLflow up to date; training never waits for it.

Owns when deliveries happen and what is said about a server that is away. Does not own the delivery.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Event, Thread

from ftcluster.errors import FtclusterError
from ftcluster.tracking.projector import Projector, RunToProject

_log = logging.getLogger(__name__)
_LONGEST_PAUSE = 30.0  # seconds between tries while the server is away


class ProjectorThread:
    """Delivers the runs that ``runs()`` names every ``interval`` seconds. Nothing it meets reaches its caller."""

    def __init__(self, projector: Projector, runs: Callable[[], Sequence[RunToProject]], interval: float = 1.0) -> None:
        self._projector = projector
        self._runs = runs
        self._interval = interval
        self._stopping = Event()
        self._away = False
        self._thread = Thread(target=self._work, name="ftcluster-projector", daemon=True)

    def start(self) -> None:
        """Begin delivering."""
        self._thread.start()

    def stop(self, timeout: float = 30.0) -> int:
        """Make a last attempt, for ``timeout`` seconds and on as long as records arrive; how many are undelivered."""
        self._stopping.set()
        left = self._pending()
        while self._thread.ident:
            self._thread.join(timeout)
            before, left = left, self._pending()
            if not self._thread.is_alive() or left >= before:
                break
        return left

    def _pending(self) -> int:
        try:
            return sum(self._projector.pending(run) for run in self._runs())
        except Exception:
            _log.warning("cannot tell which records MLflow does not have yet", exc_info=True)
            return 0

    def _work(self) -> None:
        pause = self._interval
        while not self._stopping.wait(pause):
            pause = self._interval if self._deliver_all() else min(2 * pause, _LONGEST_PAUSE)
        self._deliver_all()

    def _deliver_all(self) -> bool:
        """One round over all runs; a run that MLflow refuses does not keep the others from it."""
        problem = ""
        try:
            for run in self._runs():
                problem = self._deliver(run) or problem
        except Exception as error:
            problem = str(error)
        if problem and not self._away:
            _log.warning("MLflow is away, training goes on and records are kept: %s", problem)
        if self._away and not problem:
            _log.warning("MLflow is back, everything recorded meanwhile was delivered")
        self._away = bool(problem)
        return not problem

    def _deliver(self, run: RunToProject) -> str:
        try:
            self._projector.deliver(run)
        except Exception as error:
            return error.message if isinstance(error, FtclusterError) else str(error)
        return ""
