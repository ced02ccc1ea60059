"""What is said of memory is what operations take, on numbers that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine import memory
from ftcluster.engine.memory import free, measure_passes, peak, watch_memory
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.models.base import load_base

CPU = torch.device("cpu")
LORA = AdapterSettings(rank=4, alpha=8.0)


def test_the_peak_is_what_lived_at_once() -> None:
    def work() -> None:
        first = torch.zeros(1000)  # 4,000 bytes
        second = first + 1  # 8,000
        del first
        second.mul_(2)  # in place
        second.view(10, 100)  # a view
        torch.zeros(500)  # 6,000

    assert peak(work, CPU) == 8000


def test_backward_passes_count_too() -> None:
    x = torch.zeros(1000, requires_grad=True)  # there before
    assert peak(lambda: x.exp().sum().backward(), CPU) == 4000 + 4 + 4 + 4000  # exp, sum, its gradient, that of exp


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_what_is_predicted_from_two_passes_holds_for_longer_ones(
    tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    torch.set_num_threads(1)
    engine = PackedEngine(lambda: load_base(tiny_qwen2), Precision(torch.float32), checkpointing=again)
    passes = measure_passes(engine, LORA, 32)
    assert engine.slots == []
    assert engine.memory == 0
    monkeypatch.setattr(memory, "_SLOT", 7)
    engine.open(TrialOpening(7, 0, OptimizerSettings(), LORA))
    for documents in (2, 6, 12):
        measured = peak(lambda count=documents: memory._pass(engine, count, 32), CPU)
        assert passes.of(32 * documents) == pytest.approx(measured, rel=0.02)


def test_a_trials_cost_is_what_its_bank_grows_by(tiny_qwen2: Path) -> None:
    engine = PackedEngine(lambda: load_base(tiny_qwen2), Precision(torch.float32))
    one = engine.cost(LORA)
    engine.open(TrialOpening(0, 0, OptimizerSettings(), LORA))
    assert engine.memory == one
    # Tables double: two rows beside the one that is there, then four beside two; after it one of them is free.
    for slot, rows in ((1, 2), (2, 4)):
        assert engine.cost(LORA) == rows * one
        engine.open(TrialOpening(slot, 0, OptimizerSettings(), LORA))
    assert engine.cost(LORA) == 0
    assert engine.cost(AdapterSettings(rank=64, alpha=1.0)) == 8 * one, "the bucket of 64, not that of 8"


def test_what_is_free_is_bounded_by_the_machine_the_container_and_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, total = psutil.Process().memory_info().rss, psutil.virtual_memory().total
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert 0 < free(CPU) <= total
    assert free(CPU, used + 2**20) == pytest.approx(2**20, abs=2**22)
    (tmp_path / "memory.max").write_text("max\n")
    assert free(CPU) > 2**20
    (tmp_path / "memory.max").write_text(f"{5 * 2**20}\n")
    (tmp_path / "memory.current").write_text(f"{4 * 2**20}\n")
    assert free(CPU) == 2**20


def test_what_a_process_grows_by_is_told_where_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_TELLING", 2**28)
    peak = watch_memory(torch.device("cpu"), warm=False)
    assert peak is not None
    assert peak() == 0, "what little comes of the interpreter is no measure"
    held = torch.ones(80 * 2**20)
    assert 0.99 * held.nbytes < peak() < held.nbytes + 2**28  # pages that were free before do not count
    del held
    assert peak() > 2**28, "it is the highest moment that counts"


def test_of_a_process_that_holds_its_base_already_nothing_can_be_told() -> None:
    assert watch_memory(torch.device("cpu"), warm=True) is None
