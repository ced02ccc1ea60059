"""How often and how long a training is tried again; what it tries is scripted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ftcluster.config.schema import ClusterConfig, RunConfig
from ftcluster.contracts.trial import TrialReport
from ftcluster.engine.sharded.ranks import RankLost
from ftcluster.errors import StoreError
from ftcluster.training import attempts
from ftcluster.training.fitting import Halved
from ftcluster.training.loop import Progress
from ftcluster.training.worker import Job, Outcome

Attempt = tuple[int, int, Exception | None]  # the steps it goes on from and comes to, and how it ends
DONE: Attempt = (9, 9, None)
GONE, FULL = RankLost("rank 1 is gone"), StoreError("the disk is full")


class Script:
    """Attempts, and a clock that each of them and each pause takes some of."""

    def __init__(self, *script: Attempt, seconds: float = 1.0) -> None:
        self.script, self.seconds, self.now = list(script), seconds, 0.0

    def attempt(self, _: Job, observe: Callable[[Progress], None]) -> Outcome:
        begun, reached, error = self.script.pop(0)
        self.now += self.seconds
        for step in (begun, reached):
            observe(Progress(step=step))
        return Outcome(error=error) if error else Outcome(report=TrialReport("run", reached, {}, 0, 0.0))  # type: ignore[arg-type]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """Carry out a script, alone or over two ranks; how it ended."""

    def carry_out(script: Script, ranks: int = 1) -> Outcome:
        def alone(group: attempts._Group) -> Outcome:
            return script.attempt(group._job, group._note)

        def tick() -> float:
            script.now += 1.0
            return script.now

        monkeypatch.setattr(attempts._Group, "_alone", alone)
        monkeypatch.setattr(attempts._Group, "_together", alone)
        monkeypatch.setattr(attempts, "_TICK", 0.0)
        monkeypatch.setattr(attempts.time, "monotonic", tick)
        config = replace(RunConfig(), cluster=replace(ClusterConfig(), ranks=ranks))
        job = Job({}, str(tmp_path), "", None, {})
        return attempts.train(job, config, lambda _: None, threading.Event(), lambda _: None)

    return carry_out


def test_lost_ranks_are_replaced_twice_from_one_checkpoint(tried: Callable[..., Outcome]) -> None:
    further = [(step, step, GONE) for step in (0, 2, 4, 6, 6)]
    assert tried(Script(*further, DONE), 2).report
    assert tried(Script(*further, (6, 7, GONE), DONE), 2).error is GONE


def test_halving_is_no_loss(tried: Callable[..., Outcome]) -> None:
    halved = (0, 0, Halved("out of memory"))
    assert tried(Script(halved, halved, (0, 0, GONE), (0, 0, GONE), DONE), 2).report


def test_a_process_whose_device_failed_does_not_try_again(tried: Callable[..., Outcome]) -> None:
    assert tried(Script((0, 3, GONE), DONE)).error is GONE


@pytest.mark.parametrize("ranks", [1, 2])
def test_storage_is_waited_for_anew_each_time_it_had_worked(tried: Callable[..., Outcome], ranks: int) -> None:
    script = Script((0, 2, FULL), (0, 4, FULL), (2, 6, FULL), DONE, seconds=7200.0)
    assert tried(script, ranks).report


def test_storage_that_stays_away_ends_it(tried: Callable[..., Outcome]) -> None:
    script = Script(*[(0, 2, FULL)] * 1000)
    assert tried(script).error is FULL
    assert 10 < 1000 - len(script.script) < 40, "every few seconds, for two minutes"
