"""Decoders that are built otherwise than Llama train to the same numbers as with plain PEFT and torch.

GPT-2 keeps its weights transposed (Conv1D) and has absolute positions; GPT-NeoX has one matrix for q, k and v
and reads attention and MLP in parallel; Mistral looks back through a sliding window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import save_sample
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.data.prepared.batches import collate
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.models.base import load_base

ARCHITECTURES = ["gpt2", "gpt_neox", "mistral", "qwen3", "opt", "gemma3", "phi3"]
ENGINES: dict[str, Any] = {"local": LocalEngine, "packed": PackedEngine}
STEPS, LR, SEED = 5, 1e-2, 3
LORA = AdapterSettings(rank=4, alpha=8.0)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_sample(request.param, tmp_path_factory.mktemp("models") / request.param)


def rows(step: int) -> list[list[int]]:
    draw = np.random.default_rng(step)
    return [draw.integers(3, 320, size=length).tolist() for length in (9, 2, 6)]


def stream(step: int) -> Batch:
    return collate([(np.array(row, np.int32), np.ones(len(row), np.bool_)) for row in rows(step)], [0, 0, 0])


def ours(folder: Path, adapter: AdapterSettings | None, result: Path, kind: str = "local") -> list[float]:
    engine = ENGINES[kind](lambda: load_base(folder, dtype=torch.float64), Precision(torch.float64))
    engine.open(TrialOpening(0, SEED, OptimizerSettings(clip=0.5), adapter))
    losses = []
    for step in range(STEPS):
        batch = stream(step)
        # the first token of a document is no target
        losses.append(engine.forward_backward(batch, {0: batch.weight(0)}, {0: (step, 0)})[0].mean)
        engine.step(0, LR)
    result.mkdir()
    engine.export(0, result)
    return losses


def plainly(folder: Path, lora: bool) -> tuple[torch.nn.Module, list[float]]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()
    if lora:
        torch.manual_seed(SEED)
        config = LoraConfig(r=4, lora_alpha=8.0, target_modules="all-linear")
        model = get_peft_model(model, config, autocast_adapter_dtype=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        each = [
            torch.nn.functional.cross_entropy(
                model(torch.tensor([row])).logits[0, :-1], torch.tensor(row[1:]), reduction="sum"
            )
            for row in rows(step)
        ]
        loss = sum(each) / sum(len(row) - 1 for row in rows(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model, losses


@pytest.mark.parametrize("kind", ENGINES)
def test_lora_on_every_linear_layer_equals_plain_peft_and_loads_there(folder: Path, tmp_path: Path, kind: str) -> None:
    found = ours(folder, LORA, tmp_path / "adapter", kind)
    model, expected = plainly(folder, lora=True)
    assert found == pytest.approx(expected, abs=1e-10)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter", autocast_adapter_dtype=False)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert (loaded(tokens).logits - model(tokens).logits).abs().max() < 1e-9


def test_a_full_fine_tune_equals_plain_torch_and_loads_in_transformers(folder: Path, tmp_path: Path) -> None:
    found = ours(folder, None, tmp_path / "model")
    model, expected = plainly(folder, lora=False)
    rounding = 1e-7 if folder.name == "gemma3" else 1e-10  # Gemma's norms compute in fp32 whatever the model's type is
    assert found == pytest.approx(expected, abs=rounding)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert (loaded(tokens).logits - model(tokens).logits).abs().max() < 10 * rounding
