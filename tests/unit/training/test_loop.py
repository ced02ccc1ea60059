"""When the loop steps, measures, saves and stops, told by an engine whose losses are scripted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.contracts.ports import TrialOpening
from ftcluster.contracts.trial import RunState
from ftcluster.data.prepared.batches import Loader
from ftcluster.data.prepared.documents import Document, Documents
from ftcluster.engine.schedule import Schedule
from ftcluster.errors import Diverged
from ftcluster.training.loop import Parts, Progress
from ftcluster.training.loop import train as train_in_requests
from ftcluster.training.requests import alone


def train(parts: Parts, progress: Progress, until: int) -> Progress:
    return alone(train_in_requests(parts, progress, until), parts.clock)


DATA = Documents.of([Document(np.array([5, 6, 7], np.int32), np.array([0, 1, 1], np.bool_))] * 6)


class ScriptedEngine:
    """Every trained token costs ``losses[step]`` (1.0 where none is scripted); counts what it is asked."""

    def __init__(self, losses: Mapping[int, float] = {}, norms: Mapping[int, float] = {}) -> None:
        self.losses, self.norms = losses, norms
        self.clocks: list[tuple[int, int]] = []
        self.normalisers: list[float] = []
        self.rates: list[float] = []

    def forward_backward(
        self, batch: Batch, normalisers: Mapping[int, float], clock: Mapping[int, tuple[int, int]]
    ) -> dict[int, LossSums]:
        self.clocks.append(clock[0])
        self.normalisers.append(normalisers[0])
        weight = batch.weight(0)
        return {0: LossSums(self.losses.get(clock[0][0], 1.0) * weight, weight, len(batch.tokens_T))}

    def step(self, slot: int, lr: float) -> float:  # noqa: ARG002 - the port's signature
        self.rates.append(lr)
        return self.norms.get(len(self.rates) - 1, 0.5)

    def step_many(self, rates: Mapping[int, float]) -> dict[int, float]:
        return {slot: self.step(slot, lr) for slot, lr in rates.items()}

    def open(self, trial: TrialOpening) -> None: ...
    def evaluate(self, batch: Batch) -> list[LossSums]:
        raise NotImplementedError

    def generate(
        self, slot: int, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: Sequence[int] = ()
    ) -> list[list[int]]:
        raise NotImplementedError

    def save(self, slot: int, folder: Path) -> None: ...
    def export(self, slot: int, folder: Path) -> Any: ...
    def load(self, slot: int, folder: Path) -> None: ...
    def close(self, slot: int) -> None: ...


@dataclass
class MemoryTracker:
    """Keeps metrics as (step, values)."""

    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.points.append((step, dict(values)))

    def params(self, values: Mapping[str, Any]) -> None: ...
    def tags(self, values: Mapping[str, str]) -> None: ...
    def artifact(self, path: Path, under: str = "") -> None: ...
    def state(self, state: RunState, reason: str = "") -> None: ...
    def flush(self) -> None: ...


@dataclass
class Bed:
    """A loop with everything it did written down."""

    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    tracker: MemoryTracker = field(default_factory=MemoryTracker)
    saved: list[Progress] = field(default_factory=list)
    observed: list[Progress] = field(default_factory=list)
    evaluated: int = 0
    stop_at: int = -1
    held_out: float = 2.0
    now: float = 0.0
    micro_batch: int = 2

    def parts(self, **changes: object) -> Parts:
        parts = Parts(
            engine=self.engine,
            slot=0,
            loader=Loader(DATA, 4, self.micro_batch, seed=1),
            schedule=Schedule(0.1, 10, shape="linear"),
            tracker=self.tracker,
            evaluate=self.evaluate,
            save=self.saved.append,
            observe=self.observed.append,
            stopping=lambda: bool(self.observed) and self.observed[-1].step == self.stop_at,
            clock=self.tick,
            evaluate_every=3,
            save_every=3,
            log_every=1,
        )
        return replace(parts, **changes)  # type: ignore[arg-type]

    def evaluate(self) -> dict[str, float]:
        self.evaluated += 1
        return {"eval/loss": self.held_out}

    def tick(self) -> float:
        self.now += 0.25
        return self.now

    def steps(self, name: str) -> list[int]:
        return [step for step, values in self.tracker.points if name in values]


def test_it_trains_to_the_goal_measuring_and_saving_now_and_then_and_at_the_end() -> None:
    bed = Bed()
    end = train(bed.parts(), Progress(), 8)
    assert end.step == 8
    assert bed.steps("train/loss") == list(range(1, 9))
    assert bed.steps("eval/loss") == [3, 6, 8]
    assert [p.step for p in bed.saved] == [3, 6, 8]
    assert bed.saved[-1] == end
    assert (end.metrics, end.measured) == ({"eval/loss": 2.0}, 8)


def test_saving_may_be_rarer_or_more_frequent_than_measuring() -> None:
    bed = Bed()
    train(bed.parts(evaluate_every=4, save_every=1), Progress(), 5)
    assert bed.steps("eval/loss") == [4, 5]
    assert [p.step for p in bed.saved] == [1, 2, 3, 4, 5]
    assert [p.measured for p in bed.saved] == [-1, -1, -1, 4, 5]


def test_a_step_is_normalised_by_the_weight_of_all_its_micro_batches() -> None:
    bed = Bed()
    train(bed.parts(), Progress(), 2)
    # 6 documents of 2 trained tokens: 4 in the first step in two micro-batches, the other 2 in the second.
    assert bed.engine.clocks == [(0, 0), (0, 1), (1, 0)]
    assert bed.engine.normalisers == [8.0, 8.0, 4.0]


def test_each_record_of_a_step_has_the_rate_the_step_was_made_with() -> None:
    bed = Bed()
    train(bed.parts(), Progress(), 3)
    values = [v for _, v in bed.tracker.points if "train/lr" in v]
    assert [v["train/lr"] for v in values] == bed.engine.rates == pytest.approx([0.1, 0.09, 0.08])
    assert [v["train/epoch"] for v in values] == [0.5, 1.0, 1.5]
    assert [v["train/loss"] for v in values] == [1.0, 1.0, 1.0]


def test_time_is_that_of_training_steps_only_and_tokens_are_those_read() -> None:
    end = train(Bed().parts(), Progress(), 4)
    # A tick each for loading, every micro-batch and the update: steps have two micro-batches and one in turns.
    assert end.seconds == 2 * (4 + 3) * 0.25
    assert end.tokens == 2 * 6 * 3
    assert end.tokens_per_s == 2 * 3 / (3 * 0.25), "of the newest step"


def test_records_may_be_rarer_than_steps() -> None:
    bed = Bed()
    train(bed.parts(log_every=4), Progress(), 9)
    assert bed.steps("train/loss") == [4, 8]


def test_a_resumed_loop_does_what_was_left_to_do_and_nothing_twice() -> None:
    whole, first, second = Bed(), Bed(), Bed()
    train(whole.parts(), Progress(), 8)
    train(first.parts(), Progress(), 6)
    end = train(second.parts(), first.saved[-1], 8)
    assert first.engine.clocks + second.engine.clocks == whole.engine.clocks
    assert first.tracker.points + second.tracker.points == whole.tracker.points
    assert end == whole.saved[-1]


def test_a_finished_loop_resumed_does_nothing() -> None:
    bed = Bed()
    done = Progress(step=8, measured=8, metrics={"eval/loss": 1.0})
    assert train(bed.parts(), done, 8) == done
    assert (bed.evaluated, bed.saved, bed.engine.clocks) == (0, [], [])


def test_a_loop_saved_at_its_goal_before_it_was_measured_is_measured_first() -> None:
    bed = Bed()
    end = train(bed.parts(), Progress(step=8, measured=6), 8)
    assert (bed.evaluated, end.measured) == (1, 8)
    assert bed.saved == [end]


def test_asked_to_stop_it_saves_the_step_it_finished_without_measuring_and_returns() -> None:
    bed = Bed(stop_at=4)
    end = train(bed.parts(), Progress(), 8)
    assert end.step == 4
    assert [p.step for p in bed.saved] == [3, 4]
    assert bed.steps("eval/loss") == [3]
    again = Bed()
    train(again.parts(), end, 8)
    assert again.steps("eval/loss") == [6, 8], "as if it had never stopped"


def test_asked_to_stop_where_it_would_measure_it_saves_first_and_measures_when_it_goes_on() -> None:
    bed = Bed(stop_at=6)
    end = train(bed.parts(), Progress(), 8)
    assert (end.step, bed.steps("eval/loss"), bed.saved[-1]) == (6, [3], end)
    again = Bed()
    train(again.parts(), end, 8)
    assert again.steps("eval/loss") == [6, 8]
    assert [(p.step, p.measured) for p in again.saved] == [(6, 6), (8, 8)]


def test_asked_to_stop_at_the_last_step_it_simply_ends() -> None:
    bed = Bed(stop_at=8)
    assert train(bed.parts(), Progress(), 8).measured == 8


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step_and_saves_nothing(value: float) -> None:
    bed = Bed(ScriptedEngine(losses={4: value}))
    with pytest.raises(Diverged, match=rf"the loss became {value} at step 5\n  -> lower optim.lr, or check the data"):
        train(bed.parts(), Progress(), 8)
    assert len(bed.engine.rates) == 4
    assert [p.step for p in bed.saved] == [3]
    assert bed.steps("train/loss") == [1, 2, 3, 4]


def test_a_gradient_that_is_not_finite_stops_the_run() -> None:
    bed = Bed(ScriptedEngine(norms={4: math.inf}))
    with pytest.raises(Diverged, match="the gradient norm became inf at step 5"):
        train(bed.parts(), Progress(), 8)
    assert [p.step for p in bed.saved] == [3]


def test_held_out_metrics_that_are_not_finite_stop_the_run_before_they_are_recorded_or_saved() -> None:
    bed = Bed(held_out=math.nan)
    with pytest.raises(Diverged, match="eval/loss became nan at step 3"):
        train(bed.parts(), Progress(), 8)
    assert (bed.saved, bed.steps("eval/loss")) == ([], [])


def test_a_step_without_any_trained_token_is_harmless() -> None:
    silent = Documents.of([Document(np.array([5, 6], np.int32), np.array([0, 0], np.bool_))])
    bed = Bed()
    end = train(bed.parts(loader=Loader(silent, 4, 2, seed=1)), Progress(), 1)
    assert math.isnan(end.loss)
    assert bed.engine.normalisers == [1e-9]
