"""DoRA trials equal plain PEFT with use_dora and torch's AdamW, and leave as adapters that PEFT loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_samples import save_sample
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ftcluster.config.compose import compose
from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.precision import Precision
from ftcluster.errors import UsageError
from ftcluster.models.base import load_base, skeleton
from ftcluster.models.size import adapter_parameters
from ftcluster.training.bench import engine_note, packs
from ftcluster.training.places import trials_per_host

DORA = AdapterSettings(rank=4, alpha=8.0, dora=True)
ROWS = [[5, 9, 30, 2, 7, 11], [8, 3, 4]]
LR, SEED = 1e-2, 3


def batch() -> Batch:
    tokens = [torch.tensor(row) for row in ROWS]
    return Batch(
        torch.cat(tokens),
        torch.cat([row.roll(-1) for row in tokens]),
        torch.cat([(torch.arange(len(row)) < len(row) - 1).float() for row in tokens]),
        torch.cat([torch.arange(len(row)) for row in tokens]),
        tuple(map(len, tokens)),
        (0,) * len(tokens),
    )


def train(engine: LocalEngine, steps: range) -> None:
    for step in steps:
        engine.forward_backward(batch(), {0: 7.0}, {0: (step, 0)})
        engine.step(0, LR)


def make(folder: Path, dtype: torch.dtype = torch.float64) -> LocalEngine:
    torch.set_num_threads(1)
    engine = LocalEngine(lambda: load_base(folder, dtype=dtype), Precision(dtype))
    engine.open(TrialOpening(0, SEED, OptimizerSettings(clip=0.5), DORA))
    return engine


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_training_equals_peft_and_the_adapter_loads_there(tmp_path: Path, architecture: str) -> None:
    folder = save_sample(architecture, tmp_path / "model")
    engine = make(folder)
    train(engine, range(6))
    (tmp_path / "adapter").mkdir()
    engine.export(0, tmp_path / "adapter")

    def plain() -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()

    torch.manual_seed(SEED)
    config = LoraConfig(r=4, lora_alpha=8.0, target_modules="all-linear", use_dora=True)
    model = get_peft_model(plain(), config, autocast_adapter_dtype=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
    for _ in range(6):
        for row in ROWS:
            logits = model(torch.tensor([row])).logits[0, :-1]
            (torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum") / 7).backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "theirs")
    mine, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "theirs"))
    assert mine.keys() == theirs.keys()
    assert any("lora_magnitude_vector" in name for name in mine)
    for name, tensor in mine.items():
        assert (tensor - theirs[name]).abs().max() < 1e-12, name
    assert sum(tensor.numel() for tensor in mine.values()) == adapter_parameters(skeleton(folder), DORA)
    loaded = PeftModel.from_pretrained(plain(), tmp_path / "adapter")
    with torch.no_grad():
        row = torch.tensor([ROWS[0]])
        assert (loaded(row).logits - model(row).logits).abs().max() < 1e-6  # PEFT loads in fp32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_saved_trial_goes_on_with_the_same_bits(tiny_qwen2: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    whole, first, second = (make(tiny_qwen2, dtype) for _ in range(3))
    train(whole, range(6))
    train(first, range(3))
    (tmp_path / "saved").mkdir()
    first.save(0, tmp_path / "saved")
    second.load(0, tmp_path / "saved")
    train(second, range(3, 6))
    results = []
    for name, engine in (("whole", whole), ("resumed", second)):
        (tmp_path / name).mkdir()
        engine.export(0, tmp_path / name)
        results.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(tensor, results[1][key]) for key, tensor in results[0].items())


def test_dora_trains_alone_and_says_so(tiny_qwen2: Path) -> None:
    words = ["model=folder", f"model.path={tiny_qwen2}", "adapter.dora=true"]
    config = compose(words)
    assert not packs(config)
    assert engine_note(config) == "DoRA trials cannot share passes yet: they train one at a time"
    assert trials_per_host(config, [], gpus=False) == 1
    assert trials_per_host(compose(words[:2]), ["adapter.dora"], gpus=False) == 1
    with pytest.raises(UsageError, match="DoRA trials cannot share passes yet"):
        packs(compose([*words, "engine.name=packed"]))
