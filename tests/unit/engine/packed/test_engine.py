"""What the packed engine refuses, and what a pass that fails leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.packed import layer
from ftcluster.engine.packed.adamw import Update
from ftcluster.engine.packed.bank import Bank
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.errors import ModelError, TrialError
from ftcluster.models.base import Base, load_base
from ftcluster.models.tiny import create_tiny_model


@pytest.fixture
def engine(tiny_qwen2: Path) -> PackedEngine:
    made = PackedEngine(lambda: load_base(tiny_qwen2), Precision(torch.float32))
    for slot in (0, 1):
        made.open(TrialOpening(slot, slot, OptimizerSettings(), AdapterSettings(4, 8.0)))
    return made


def batch(*slots: int) -> Batch:
    tokens = torch.arange(5, 11)
    weights = torch.tensor([1.0, 1, 1, 1, 1, 0])
    return Batch.joined([Batch(tokens, tokens.roll(-1), weights, torch.arange(6), (6,), (slot,)) for slot in slots])


def test_a_slot_is_taken_once_and_only_slots_with_trials_are_served(engine: PackedEngine) -> None:
    with pytest.raises(ValueError, match="slot 1 is taken or negative"):
        engine.open(TrialOpening(1, 0, OptimizerSettings(), AdapterSettings(4, 8.0)))
    with pytest.raises(ValueError, match="slot 7 holds no trial"):
        engine.evaluate(batch(7))
    assert engine.slots == [0, 1]


def test_a_pass_that_fails_on_its_way_back_is_told_apart(engine: PackedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(layer._Adapted, "backward", staticmethod(fail))
    clock = {0: (0, 0), 1: (0, 0)}
    with pytest.raises(TrialError, match="a pass of several trials failed half-way: no memory left"):
        engine.forward_backward(batch(0, 1), {0: 5.0, 1: 5.0}, clock)
    with pytest.raises(RuntimeError, match="no memory left"):
        engine.forward_backward(batch(0), {0: 5.0}, clock)


def test_its_memory_is_counted_and_grows_with_trials(engine: PackedEngine) -> None:
    before = engine.memory
    for slot in (2, 3, 4):
        engine.open(TrialOpening(slot, slot, OptimizerSettings(), AdapterSettings(4, 8.0)))
    assert engine.memory == 4 * before  # rows are made by doubling: 2, 4, 8
    for slot in range(5):
        engine.close(slot)
    assert engine.slots == []
    assert engine.memory == 0
    engine.open(TrialOpening(9, 0, OptimizerSettings(), AdapterSettings(4, 8.0)))
    assert engine.memory == before // 2


def test_a_step_that_fails_for_one_bank_is_not_tried_again_for_the_other(
    engine: PackedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.open(TrialOpening(2, 2, OptimizerSettings(), AdapterSettings(16, 8.0)))
    wide = engine._trials[2].bank

    def step(bank: Bank, updates: Mapping[int, Update]) -> dict[int, float]:
        if bank is wide:
            raise RuntimeError("no memory left")
        return taken(bank, updates)

    taken = Bank.step
    monkeypatch.setattr(Bank, "step", step)
    with pytest.raises(TrialError, match="a step of several trials failed half-way: no memory left"):
        engine.step_many({0: 0.1, 2: 0.1})
    with pytest.raises(RuntimeError, match="no memory left"):
        engine.step(2, 0.1)


@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_a_trial_has_its_bits_whatever_its_company_on_several_threads_too(tmp_path: Path, activation: str) -> None:
    folder = create_tiny_model(tmp_path, ["The quick brown fox."] * 20, intermediate_size=4864, layers=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": activation}))

    def part(slot: int, step: int, count: int) -> Batch:
        tokens = torch.randint(3, 200, (count,), generator=torch.Generator().manual_seed(10 * slot + step))
        return Batch(tokens, tokens.roll(-1), torch.ones(count), torch.arange(count), (count,), (slot,))

    def trained(*company: int) -> dict[str, torch.Tensor]:
        made = PackedEngine(lambda: load_base(folder), Precision(torch.float32))
        for slot in company:
            made.open(TrialOpening(slot, slot, OptimizerSettings(), AdapterSettings(4, 8.0)))
        for step in range(3):
            parts = [part(slot, step, 61 - 24 * slot) for slot in company]
            made.forward_backward(Batch.joined(parts), dict.fromkeys(company, 50.0), dict.fromkeys(company, (step, 0)))
            made.step_many(dict.fromkeys(company, 1e-2))
        return made.adapter(0)

    before = torch.get_num_threads()
    torch.set_num_threads(3)  # thirds of this width end between two of a processor's vectors
    try:
        alone, crowd = trained(0), trained(0, 1)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(values, crowd[path]) for path, values in alone.items())


class Experts(torch.nn.Module):
    """Two linear layers, each for the tokens that its share of a router's numbers picks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.low, self.high = (torch.nn.Linear(width, width, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen, out = x[..., 0] > 0, torch.zeros_like(x)
        out[chosen], out[~chosen] = self.high(x[chosen]), self.low(x[~chosen])
        return out


def test_layers_that_see_only_some_tokens_train_alone_and_are_refused_in_company(tiny_qwen2: Path) -> None:
    def load() -> Base:
        torch.manual_seed(0)
        base = load_base(tiny_qwen2)
        for block in base.model.model.layers:
            block.mlp = Experts(base.model.config.hidden_size)
        return base

    made = PackedEngine(load, Precision(torch.float32))
    for slot in (0, 1):
        made.open(TrialOpening(slot, slot, OptimizerSettings(), AdapterSettings(4, 8.0)))
    clock = {0: (0, 0), 1: (0, 0)}
    with pytest.raises(ModelError, match=r"is given \d+ rows of a stream of 12 tokens") as raised:
        made.forward_backward(batch(0, 1), {0: 5.0, 1: 5.0}, clock)
    assert raised.value.remedy == "set engine.name=local"
    solo = LocalEngine(load, Precision(torch.float32))
    solo.open(TrialOpening(0, 0, OptimizerSettings(), AdapterSettings(4, 8.0)))
    for engine in (made, solo):
        engine.forward_backward(batch(0), {0: 5.0}, clock)
    assert made.step(0, 0.1) == pytest.approx(solo.step(0, 0.1), rel=1e-5)
