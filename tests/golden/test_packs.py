"""A pack against plain PEFT: trials that differ in everything, one late, one leaving early, one broken.

Parameters in fp64 stay within 1e-12 of PEFT + torch AdamW + clip_grad_norm_; in fp32 and bf16 on one thread a trial
has the same bits as alone, whatever its companions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.engine.schedule import Schedule
from ftcluster.models.base import load_base

Row = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Recipe:
    """One trial, and how to draw its batches."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    batch: int
    micro: int
    optimizer: OptimizerSettings
    schedule: Schedule
    seed: int
    first: int = 0  # round in which it is admitted
    steps: int = 30
    rslora: bool = False
    dropout: float = 0.0
    done: int = field(default=0, compare=False)

    @property
    def adapter(self) -> AdapterSettings:
        return AdapterSettings(self.rank, self.alpha, self.dropout, self.targets, self.rslora)

    def opening(self, slot: int) -> TrialOpening:
        return TrialOpening(slot, self.seed, self.optimizer, self.adapter)

    def micro_batches(self, step: int) -> list[list[Row]]:
        draw = torch.Generator().manual_seed(1000 * self.seed + step)
        rows = []
        for length in torch.randint(2, 14, (self.batch,), generator=draw).tolist():
            weights = (torch.rand(length, generator=draw) < 0.7).float()
            weights[0], weights[-1] = 1, 0
            rows.append((torch.randint(3, 300, (length,), generator=draw), weights))
        return [rows[at : at + self.micro] for at in range(0, self.batch, self.micro)]


ALL = ("all-linear",)
RECIPES = [
    Recipe(4, 8.0, ALL, 4, 2, OptimizerSettings(clip=0.5), Schedule(1e-2, 30, 3, "cosine"), seed=1),
    Recipe(9, 3.0, ("q_proj", "v_proj"), 3, 3, OptimizerSettings(0.1), Schedule(3e-2, 30, 0, "linear"), seed=2),
    Recipe(16, 32.0, ("down_proj",), 6, 2, OptimizerSettings(0.01, clip=0.05), Schedule(2e-3, 30, 5, "constant"), 3),
    Recipe(
        1, 1.0, ("gate_proj", "up_proj", "o_proj"), 2, 1, OptimizerSettings(clip=0.0), Schedule(5e-2, 30, 1, "cosine"),
        seed=4, first=7, rslora=True,
    ),
    Recipe(8, 16.0, ALL, 5, 2, OptimizerSettings(0.3, 0.8, 0.95, 1e-6), Schedule(1e-3, 12, 0, "linear"), 5, steps=12),
    Recipe(2, 64.0, ("k_proj",), 1, 1, OptimizerSettings(0.1, lora_plus=4.0), Schedule(1e-2, 30, 2, "cosine", 0.1), 6),
]  # fmt: skip


def stream(rows: list[tuple[int, Row]]) -> Batch:
    return Batch(
        torch.cat([t for _, (t, _) in rows]),
        torch.cat([torch.cat([t[1:], t[:1]]) for _, (t, _) in rows]),
        torch.cat([w for _, (_, w) in rows]),
        torch.cat([torch.arange(len(t)) for _, (t, _) in rows]),
        tuple(len(t) for _, (t, _) in rows),
        tuple(slot for slot, _ in rows),
    )


def weight_of(micros: list[list[Row]]) -> float:
    return sum(float(w.sum()) for rows in micros for _, w in rows)


def packed(engine: PackedEngine, recipes: dict[int, Recipe], rounds: int, broken_at: int = -1) -> None:
    """Each round every trial that is there takes one step; micro-batches of different trials share passes."""
    for recipe in recipes.values():
        recipe.done = 0
    for now in range(rounds):
        for slot, recipe in recipes.items():
            if recipe.first == now:
                engine.open(recipe.opening(slot))
        there = {s: r for s, r in recipes.items() if r.first <= now and r.done < r.steps}
        micros = {slot: recipe.micro_batches(recipe.done) for slot, recipe in there.items()}
        normalisers = {slot: weight_of(each) for slot, each in micros.items()}
        for micro in range(max(map(len, micros.values()), default=0)):
            rows = [(slot, row) for slot, each in micros.items() if micro < len(each) for row in each[micro]]
            if now == broken_at:  # a companion whose rows make everything of its own infinite
                engine.open(TrialOpening(99, 1, OptimizerSettings(clip=0.0), AdapterSettings(4, 1e30)))
                engine.step(99, 1e30)
                rows += [(99, rows[0][1])]
            clock = {slot: (recipe.done, micro) for slot, recipe in there.items()} | {99: (0, 0)}
            engine.forward_backward(stream(rows), normalisers | {99: 1e-30}, clock)
            if now == broken_at:
                engine.step(99, float("inf"))
                engine.close(99)
                broken_at = -1
        engine.step_many({slot: recipe.schedule.lr(recipe.done) for slot, recipe in there.items()})
        for recipe in there.values():
            recipe.done += 1


def exported(engine: PackedEngine, slot: int, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir(parents=True)
    engine.export(slot, folder)
    return load_file(folder / "adapter_model.safetensors")


def trained(engine: PackedEngine, recipes: dict[int, Recipe]) -> dict[int, dict[str, torch.Tensor]]:
    """Adapters after seven rounds; the engine is empty again afterwards."""
    try:
        packed(engine, recipes, rounds=7)
        return {slot: engine.adapter(slot) for slot in recipes}
    finally:
        for slot in recipes:
            engine.close(slot)


def by_peft(model: Path, recipe: Recipe) -> dict[str, torch.Tensor]:
    """The same trial written with padded batches, PEFT, torch AdamW and clip_grad_norm_ only."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="sdpa")
    torch.manual_seed(recipe.seed)
    targets = "all-linear" if recipe.targets == ALL else list(recipe.targets)
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=targets, use_rslora=recipe.rslora)
    peft = get_peft_model(base, config, autocast_adapter_dtype=False)
    trained = [p for p in peft.parameters() if p.requires_grad]
    s = recipe.optimizer
    upper = [p for name, p in peft.named_parameters() if "lora_B" in name]
    lower = [p for name, p in peft.named_parameters() if "lora_A" in name]
    groups = [{"params": lower, "times": 1.0}, {"params": upper, "times": s.lora_plus}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(s.beta1, s.beta2), eps=s.eps, weight_decay=s.weight_decay)
    for step in range(recipe.steps):
        micros = recipe.micro_batches(step)
        for rows in micros:
            width = max(len(t) for t, _ in rows)
            tokens = torch.stack([torch.nn.functional.pad(t, (0, width - len(t))) for t, _ in rows])
            mask = torch.stack([(torch.arange(width) < len(t)).long() for t, _ in rows])
            weights = torch.stack([torch.nn.functional.pad(w, (0, width - len(w))) for _, w in rows]).double()
            logits = peft(input_ids=tokens, attention_mask=mask).logits
            each = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
            ).view(len(rows), -1)
            ((each * weights[:, :-1]).sum() / weight_of(micros)).backward()
        torch.nn.utils.clip_grad_norm_(trained, s.clip if s.clip else math.inf)
        for group in optimizer.param_groups:
            group["lr"] = recipe.schedule.lr(step) * group["times"]
        optimizer.step()
        optimizer.zero_grad()
    return {
        name.replace(".default.weight", ".weight"): p.detach() for name, p in peft.named_parameters() if p.requires_grad
    }


def make(model: Path, dtype: torch.dtype, *, exact: bool = True) -> PackedEngine:
    torch.set_num_threads(1)
    return PackedEngine(lambda: load_base(model, dtype=dtype), Precision(dtype), exact=exact)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
def test_six_unlike_trials_in_a_pack_equal_peft_to_1e_12(tiny_qwen2: Path, tmp_path: Path, exact: bool) -> None:
    engine = make(tiny_qwen2, torch.float64, exact=exact)
    packed(engine, dict(enumerate(RECIPES)), rounds=37, broken_at=9)
    for slot, recipe in enumerate(RECIPES):
        mine, theirs = exported(engine, slot, tmp_path / str(slot)), by_peft(tiny_qwen2, recipe)
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert (tensor - theirs[name]).abs().max() < 1e-12, f"trial {slot}, {name}"


recipes = st.builds(
    Recipe,
    rank=st.integers(1, 20),
    alpha=st.floats(0.5, 64),
    targets=st.sampled_from([ALL, ("q_proj",), ("down_proj", "v_proj"), ("k_proj", "gate_proj", "up_proj")]),
    batch=st.integers(1, 5),
    micro=st.integers(1, 3),
    optimizer=st.builds(
        OptimizerSettings,
        weight_decay=st.floats(0, 0.3),
        clip=st.sampled_from([0.0, 0.1, 1.0]),
        lora_plus=st.sampled_from([1.0, 8.0]),
    ),
    schedule=st.builds(Schedule, st.floats(1e-4, 5e-2), st.just(4), st.integers(0, 2), st.just("cosine")),
    seed=st.integers(0, 2**31),
    first=st.integers(0, 2),
    steps=st.integers(1, 4),
    dropout=st.sampled_from([0.0, 0.1, 0.5]),
)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_trial_has_the_same_bits_alone_and_in_any_company(tiny_qwen2: Path, dtype: torch.dtype) -> None:
    engine = make(tiny_qwen2, dtype)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(recipes, min_size=2, max_size=5))
    def holds(company: list[Recipe]) -> None:
        together = dict(enumerate(company))
        crowd = trained(engine, together)
        for slot, recipe in together.items():
            alone = trained(engine, {slot: recipe})[slot]
            for name, tensor in alone.items():
                assert torch.equal(tensor, crowd[slot][name]), f"trial {slot}, {name}"

    holds()
