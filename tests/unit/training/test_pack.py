"""What trials ask is carried out together, and what happens to one leaves the others as they are."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.errors import TrialError
from ftcluster.training.pack import Pack
from ftcluster.training.requests import MicroBatch, Update, Work, alone, carry_out


class CountingEngine:
    """Notes each pass and each step; a loss is the number of the slot's tokens."""

    def __init__(self, poison: int = -1) -> None:
        self.passes: list[tuple[int, ...]] = []
        self.steps: list[dict[int, float]] = []
        self.poison = poison
        self.lanes: dict[int, int] = {}

    def forward_backward(
        self, batch: Batch, normalisers: Mapping[int, float], clock: Mapping[int, tuple[int, int]]
    ) -> dict[int, LossSums]:
        if self.poison in batch.slots:
            raise RuntimeError("bad rows")
        assert set(normalisers) == set(clock) == set(batch.slots)
        self.passes.append(tuple(sorted(set(batch.slots))))
        return {slot: LossSums(float(len(batch.select(slot).tokens_T)), 1.0) for slot in set(batch.slots)}

    def step_many(self, rates: Mapping[int, float]) -> dict[int, float]:
        self.steps.append(dict(rates))
        return {slot: float(slot) for slot in rates}


def tokens(slot: int, count: int) -> Batch:
    numbers = torch.arange(count)
    return Batch(numbers, numbers, torch.ones(count), numbers, (count,), (slot,))


def loop(engine: CountingEngine, slot: int, steps: int, micros: int = 1, size: int = 4) -> Work[tuple[float, float]]:
    """A loop as trials have it; returns all losses and norms added up."""
    loss, norm = 0.0, 0.0
    for step in range(steps):
        for micro in range(micros):
            loss += (yield MicroBatch(cast(Any, engine), slot, tokens(slot, size), 1.0, (step, micro))).value.loss
        norm += (yield Update(cast(Any, engine), slot, 0.1 * slot)).value
    return loss, norm


def run(pack: Pack[str, Any]) -> dict[str, Any]:
    ended: dict[str, Any] = {}
    while len(pack):
        ended |= dict(pack.turn())
    return ended


def test_trials_of_one_pace_share_every_pass_and_step() -> None:
    engine, pack = CountingEngine(), Pack[str, Any](budget=100)
    for slot in (1, 2, 3):
        assert pack.add(f"t{slot}", loop(engine, slot, steps=2)) is None
    assert run(pack) == {f"t{slot}": (8.0, 2.0 * slot) for slot in (1, 2, 3)}
    assert engine.passes == [(1, 2, 3)] * 2
    assert engine.steps == [{1: 0.1, 2: 0.2, 3: pytest.approx(0.3)}] * 2


def test_a_loop_gets_the_answers_it_would_get_alone_whatever_its_accumulation() -> None:
    engine, pack = CountingEngine(), Pack[str, Any](budget=100)
    for slot in (1, 2, 3):
        pack.add(f"t{slot}", loop(engine, slot, steps=5 - slot, micros=slot, size=slot))
    together = run(pack)
    for slot in (1, 2, 3):
        assert together[f"t{slot}"] == alone(loop(CountingEngine(), slot, steps=5 - slot, micros=slot, size=slot))


def test_passes_stay_within_the_budget_and_a_larger_micro_batch_runs_alone() -> None:
    engine, pack = CountingEngine(), Pack[str, Any](budget=8)
    for slot, size in ((1, 4), (2, 4), (3, 20), (4, 4)):
        pack.add(f"t{slot}", loop(engine, slot, steps=1, size=size))
    run(pack)
    assert engine.passes == [(1, 2), (3,), (4,)]


def test_trials_of_other_lanes_do_not_add_to_a_pass() -> None:
    engine, pack = CountingEngine(), Pack[str, Any](budget=8)
    engine.lanes = {2: 1, 3: 1}
    for slot, size in ((1, 6), (2, 20), (3, 4), (4, 2)):
        pack.add(f"t{slot}", loop(engine, slot, steps=1, size=size))
    run(pack)
    assert engine.passes == [(1, 2), (3, 4)]


def test_one_that_fails_ends_alone() -> None:
    engine, pack = CountingEngine(poison=2), Pack[str, Any](budget=100)

    def careful(slot: int) -> Work[str]:
        try:
            loss, _ = yield from loop(engine, slot, steps=3)
        except RuntimeError as error:
            return f"failed: {error}"
        return f"lost {loss}"

    for slot in (1, 2, 3):
        pack.add(f"t{slot}", careful(slot))
    assert run(pack) == {"t1": "lost 12.0", "t2": "failed: bad rows", "t3": "lost 12.0"}


def test_a_pass_that_may_have_changed_something_is_not_tried_again() -> None:
    class Failing(CountingEngine):
        def forward_backward(self, *_: Any) -> dict[int, LossSums]:
            self.passes.append(())
            raise TrialError("failed on its way back")

    engine, pack = Failing(), Pack[str, Any](budget=100)

    def careful(slot: int) -> Work[str]:
        try:
            yield from loop(engine, slot, steps=1)
        except TrialError as error:
            return str(error)
        return "went on"

    for slot in (1, 2):
        pack.add(f"t{slot}", careful(slot))
    assert run(pack) == {"t1": "failed on its way back", "t2": "failed on its way back"}
    assert len(engine.passes) == 1


def test_a_loop_that_raises_ends_with_its_exception_and_the_others_go_on() -> None:
    engine, pack = CountingEngine(poison=2), Pack[str, Any](budget=100)
    for slot in (1, 2, 3):
        pack.add(f"t{slot}", loop(engine, slot, steps=2))
    ended = run(pack)
    assert repr(ended.pop("t2")) == "RuntimeError('bad rows')"
    assert ended == {"t1": (8.0, 2.0), "t3": (8.0, 6.0)}
    assert engine.passes == [(1,), (3,), (1, 3)]

    def broken() -> Work[str]:
        raise RuntimeError("before its first request")
        yield

    assert repr(pack.add("t4", broken())) == "RuntimeError('before its first request')"


def test_what_a_failed_pass_held_is_gone_before_the_next_pass() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    class Failing(CountingEngine):
        def forward_backward(self, *_: Any) -> dict[int, LossSums]:
            self.passes.append(tuple(ref() is not None for ref in held))
            activations = torch.zeros(8)
            held.append(weakref.ref(activations))
            try:
                raise RuntimeError("no memory left")
            except RuntimeError as error:
                raise ValueError("told otherwise") from error

    engine, pack = Failing(), Pack[str, Any](budget=100)
    for slot in (1, 2):
        pack.add(f"t{slot}", loop(engine, slot, steps=1))
    assert {type(error) for error in run(pack).values()} == {ValueError}
    assert engine.passes == [(), (False,), (False, False)]


def test_alone_a_failure_is_raised_where_it_was_asked_for() -> None:
    def careful() -> Work[str]:
        try:
            yield from loop(CountingEngine(poison=2), 2, steps=1)
        except RuntimeError as error:
            return f"failed: {error}"
        return "went on"

    assert alone(careful()) == "failed: bad rows"
    with pytest.raises(RuntimeError, match="bad rows"):
        alone(loop(CountingEngine(poison=2), 2, steps=1))


def test_a_loop_without_requests_ends_when_it_is_added() -> None:
    def nothing() -> Work[str]:
        return "done"
        yield

    assert Pack[str, str](budget=8).add("t", nothing()) == "done"


def test_engines_are_never_mixed_in_a_pass() -> None:
    one, other, pack = CountingEngine(), CountingEngine(), Pack[str, Any](budget=100)
    for name, engine, slot in (("a", one, 1), ("b", other, 1), ("c", one, 2)):
        pack.add(name, loop(engine, slot, steps=1))
    run(pack)
    assert (one.passes, other.passes) == ([(1, 2)], [(1,)])


def test_time_of_a_shared_pass_is_shared_by_tokens_and_that_of_a_shared_step_evenly() -> None:
    engine: Any = CountingEngine()
    ticks = iter([0.0, 12.0, 20.0, 23.0])
    micros = [MicroBatch(engine, slot, tokens(slot, size), 1.0, (0, 0)) for slot, size in ((1, 2), (2, 4))]
    assert [answer.seconds for answer in carry_out(micros, lambda: next(ticks))] == [4.0, 8.0]
    updates = [Update(engine, slot, 0.1) for slot in (1, 2, 3)]
    assert [answer.seconds for answer in carry_out(updates, lambda: next(ticks))] == [1.0, 1.0, 1.0]
