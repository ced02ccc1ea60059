"""Activation checkpointing changes what is kept for the backward pass, and not a bit of the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import save_sample

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.data.prepared.batches import collate
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.errors import ModelError
from ftcluster.models.base import load_base
from ftcluster.models.checkpointing import checkpointing

LORA = AdapterSettings(rank=4, alpha=8.0, dropout=0.1)


def batch(step: int, slots: list[int]) -> Batch:
    draw = np.random.default_rng(step)
    rows = [draw.integers(3, 320, size=length).astype(np.int32) for length in (30, 17, 30)]
    return collate([(row, np.ones(len(row), np.bool_)) for row in rows], slots)


def trained(
    folder: Path, kind: Any, adapter: AdapterSettings | None, result: Path, *, again: bool
) -> tuple[dict[str, torch.Tensor], int]:
    """Exported weights after three steps, and the most bytes that were kept for a backward pass."""
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    engine = kind(lambda: load_base(folder, dtype=torch.float32), Precision(torch.float32), checkpointing=again)
    slots = [0, 1, 1] if kind is PackedEngine else [0, 0, 0]
    for slot in set(slots):
        engine.open(TrialOpening(slot, slot, OptimizerSettings(), adapter))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    for step in range(3):
        whole = batch(step, slots)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            engine.forward_backward(
                whole, {slot: whole.weight(slot) for slot in set(slots)}, dict.fromkeys(set(slots), (step, 0))
            )
        for slot in set(slots):
            engine.step(slot, 1e-2)
    result.mkdir()
    engine.export(0, result)
    return load_file(next(result.glob("*.safetensors"))), sum(kept.values())


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "gpt_neox", "gemma3", "mistral", "phi3"])
@pytest.mark.parametrize(
    ("kind", "adapter"),
    [(LocalEngine, LORA), (LocalEngine, None), (PackedEngine, LORA)],
    ids=["local", "full", "packed"],
)
def test_the_bits_are_the_same_with_it_and_less_is_kept(
    tmp_path: Path, architecture: str, kind: Any, adapter: AdapterSettings | None
) -> None:
    folder = save_sample(architecture, tmp_path / "model")
    plain, kept = trained(folder, kind, adapter, tmp_path / "plain", again=False)
    again, kept_again = trained(folder, kind, adapter, tmp_path / "again", again=True)
    assert plain.keys() == again.keys()
    for name, tensor in plain.items():
        assert torch.equal(tensor, again[name]), name
    assert kept_again < kept


def test_a_model_without_such_layers_is_refused() -> None:
    with (
        pytest.raises(ModelError, match="Linear has no layers that can be computed again"),
        checkpointing(torch.nn.Linear(2, 2)),
    ):
        pass
