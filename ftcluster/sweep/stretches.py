"""Puts trials on hosts, each from its checkpoint to its next rung: what has to be known and written before, and jobs.

The ledger says that they run before any host hears of them, for all that start together at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftcluster.cluster.host import Host
from ftcluster.config.compose import from_dict
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.trial import RunState
from ftcluster.errors import FtclusterError, StoreError
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.datasets import Datasets
from ftcluster.sweep.facts import Facts
from ftcluster.sweep.plan import SweepPlan
from ftcluster.training.session import total_steps
from ftcluster.training.worker import Job


@dataclass
class Stretch:
    """A trial on a host, from its checkpoint to the next rung."""

    trial: RunRow
    rung: int
    until: int  # optimizer steps
    host: Host
    job: Any
    started: float  # seconds since 1970
    waited: float = 0.0  # seconds


@dataclass
class Launcher:
    """``totals``: steps of a trial's whole training, by its name, of all that were started."""

    facts: Facts
    tags: Mapping[str, str]
    totals: dict[str, int] = field(default_factory=dict)
    configs: dict[str, RunConfig] = field(default_factory=dict)  # of trials that wait, where they are known
    _datasets: Datasets = field(default_factory=Datasets)
    _data: dict[str, str] = field(default_factory=dict)  # folders of prepared data, of trials that were started

    def config(self, trial: RunRow) -> RunConfig:
        """What a trial trains."""
        if trial.name not in self.configs:
            self.configs[trial.name] = from_dict(trial.config)
        return self.configs[trial.name]

    def launch(
        self, plan: SweepPlan, placed: Sequence[tuple[RunRow, Host]]
    ) -> tuple[list[Stretch], list[tuple[RunRow, Host, str]]]:
        """Start trials on their hosts; those that were, and those that cannot be trained, with the reason.

        Raises:
            StoreError: something could not be read or written; none was started.
        """
        ready, problems = list[tuple[Stretch, Job]](), list[tuple[RunRow, Host, str]]()
        for trial, host in placed:
            try:
                ready.append(self._ready(plan, trial, host))
            except StoreError:
                raise
            except FtclusterError as error:
                problems.append((trial, host, str(error)))
        self.facts.set_states((stretch.trial.name, RunState.RUNNING, "") for stretch, _ in ready)
        for stretch, job in ready:
            stretch.job = stretch.host.submit(job)
            self.configs.pop(stretch.trial.name, None)
        return [stretch for stretch, _ in ready], problems

    def _ready(self, plan: SweepPlan, trial: RunRow, host: Host) -> tuple[Stretch, Job]:
        if trial.name not in self._data:  # else it goes on with what it began with
            config = self.config(trial)
            data = self._datasets.of(config)
            self._data[trial.name], self.totals[trial.name] = str(data.folder), total_steps(config, data)
        total = self.totals[trial.name]
        rung = len(self.facts.values.get(trial.number, ()))
        until = plan.until(rung, total)
        tags = {**self.tags, "ftcluster.sweep": plan.name, "ftcluster.identity": trial.identity}
        job = Job(trial.config, trial.folder, self._data[trial.name], until, tags)
        return Stretch(trial, rung, until, host, None, time.time()), job
