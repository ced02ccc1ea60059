"""Training arithmetic against formulas worked out beside it: loss, AdamW, clipping, LoRA's scale."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.data.prepared.batches import collate
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.precision import Precision
from ftcluster.models import adapters
from ftcluster.models.base import load_base
from ftcluster.objectives.cross_entropy import token_losses

Weights = dict[str, torch.Tensor]


def test_cross_entropy_of_logits_a_person_can_check() -> None:
    logits_NV = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3.0), 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]])
    # 1/4; 3/6; nearly 1 for the last, and its complement is 100 nats away
    assert token_losses(logits_NV, torch.tensor([2, 0, 0])).tolist() == pytest.approx([math.log(4), math.log(2), 0.0])
    assert token_losses(logits_NV, torch.tensor([0, 1, 3])).tolist() == pytest.approx([math.log(4), math.log(6), 100.0])


@pytest.mark.parametrize(
    ("given", "made"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_losses_are_computed_in_fp32_at_least(given: torch.dtype, made: torch.dtype) -> None:
    losses_N = token_losses(torch.zeros(2, 50_000, dtype=given), torch.tensor([1, 2]))
    assert losses_N.dtype == made
    assert losses_N.tolist() == pytest.approx([math.log(50_000)] * 2, rel=1e-6)


# --- AdamW and clipping ------------------------------------------------------------------------------------------

ROWS = [([5, 6, 7, 8, 9], [0, 0, 1, 1, 1]), ([20, 21, 22], [0, 1, 1])]
TRAINED = 5


def stream() -> Batch:
    import numpy as np

    return collate([(np.array(t, np.int32), np.array(w, np.bool_)) for t, w in ROWS], [0, 0])


class ByHand:
    """Loshchilov and Hutter's algorithm 2 with gradients of plain transformers, one row at a time."""

    def __init__(self, folder: Path, settings: OptimizerSettings) -> None:
        self.model = load_base(folder, dtype=torch.float64).model.requires_grad_(True)
        self.settings = settings
        self.m = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}
        self.v = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}
        self.t = 0

    def step(self, lr: float) -> tuple[float, float]:
        """Loss per trained token before the step, and the norm of its gradient before clipping."""
        self.model.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for tokens, trained in ROWS:
            log_p = self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            for at in range(len(tokens) - 1):
                if trained[at + 1]:
                    total = total - log_p[at, tokens[at + 1]]
        (total / TRAINED).backward()
        gradients = {name: p.grad.clone() for name, p in self.model.named_parameters()}
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        shrink = min(1.0, self.settings.clip / (norm + 1e-6)) if self.settings.clip else 1.0
        self.t += 1
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                self._update(p, name, gradients[name] * shrink, lr)
        return total.item() / TRAINED, norm

    def _update(self, p: torch.Tensor, name: str, g: torch.Tensor, lr: float) -> None:
        s = self.settings
        self.m[name] = s.beta1 * self.m[name] + (1 - s.beta1) * g
        self.v[name] = s.beta2 * self.v[name] + (1 - s.beta2) * g**2
        m_hat = self.m[name] / (1 - s.beta1**self.t)
        v_hat = self.v[name] / (1 - s.beta2**self.t)
        p -= lr * s.weight_decay * p + lr * m_hat / (v_hat.sqrt() + s.eps)


@pytest.mark.parametrize(
    "settings",
    [
        OptimizerSettings(),
        OptimizerSettings(weight_decay=0.1, beta1=0.8, beta2=0.95, eps=1e-6, clip=0.1),
        OptimizerSettings(weight_decay=0.1, clip=0.0),
    ],
    ids=["defaults", "all settings", "no clipping"],
)
def test_adamw_steps_equal_the_formula_with_decay_and_clipping(
    tiny_qwen2: Path, tmp_path: Path, settings: OptimizerSettings
) -> None:
    engine = LocalEngine(lambda: load_base(tiny_qwen2, dtype=torch.float64), Precision(torch.float64))
    engine.open(TrialOpening(0, 1, settings))
    hand = ByHand(tiny_qwen2, settings)
    for step, lr in enumerate((1e-2, 5e-3, 1e-3)):
        sums = engine.forward_backward(stream(), {0: TRAINED}, {0: (step, 0)})[0]
        loss, norm = hand.step(lr)
        assert (sums.weight, sums.tokens) == (TRAINED, 8)
        assert sums.mean == pytest.approx(loss, abs=1e-12)
        assert engine.step(0, lr) == pytest.approx(norm, rel=1e-12)
        assert settings.clip == 0 or norm > settings.clip, "a case without clipping would prove nothing"
    engine.export(0, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    for name, parameter in hand.model.named_parameters():
        assert (saved[name] - parameter).abs().max() < 1e-11, name


def test_the_first_adamw_step_moves_a_weight_by_the_rate_whatever_its_gradient(
    tiny_qwen2: Path, tmp_path: Path
) -> None:
    # m_hat / sqrt(v_hat) = g / |g| at the first step.
    engine = LocalEngine(lambda: load_base(tiny_qwen2, dtype=torch.float64), Precision(torch.float64))
    engine.open(TrialOpening(0, 1, OptimizerSettings(eps=1e-15)))
    engine.forward_backward(stream(), {0: TRAINED}, {0: (0, 0)})
    engine.step(0, 0.25)
    engine.export(0, tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    moved = load_file(tmp_path / "model.safetensors")[name] - load_file(tiny_qwen2 / "model.safetensors")[name]
    assert moved.abs().flatten().tolist() == pytest.approx([0.25] * moved.numel(), rel=1e-6)


# --- LoRA's scale ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rslora", "scale"), [(False, 12.0 / 4), (True, 12.0 / 2)])
def test_an_adapter_adds_scale_times_b_a_with_alpha_over_rank_or_its_root(
    tiny_qwen2: Path, rslora: bool, scale: float
) -> None:
    settings = AdapterSettings(rank=4, alpha=12.0, rslora=rslora, targets=("q_proj", "down_proj"))
    base, merged = (load_base(tiny_qwen2, dtype=torch.float64) for _ in range(2))
    parameters = adapters.attach(base, "slot0", settings, seed=3)
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.1)
        for name, a in parameters.items():
            if ".lora_A." in name:
                layer = merged.model.get_submodule(name.partition(".lora_A.")[0])
                layer.weight += scale * parameters[name.replace(".lora_A.", ".lora_B.")] @ a
    adapters.activate(base, "slot0")
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        found, expected = base.model(tokens).logits, merged.model(tokens).logits
        plain = load_base(tiny_qwen2, dtype=torch.float64).model(tokens).logits
    assert (found - expected).abs().max() < 1e-12
    assert (found - plain).abs().max() > 1e-3


def test_a_fresh_adapter_has_b_zero_and_a_from_its_seed_alone(tiny_qwen2: Path) -> None:
    def fresh(seed: int) -> Weights:
        torch.rand(seed)  # whatever was drawn before
        return adapters.attach(load_base(tiny_qwen2), "slot0", AdapterSettings(rank=4, alpha=8.0), seed)

    one, same, other = fresh(3), fresh(3), fresh(4)
    for name, tensor in one.items():
        assert torch.equal(tensor, same[name])
        if ".lora_B." in name:
            assert not tensor.any()
        else:
            assert not torch.equal(tensor, other[name])
            bound = 1 / math.sqrt(tensor.shape[1])  # Kaiming-uniform with a = sqrt(5): 1 / sqrt(fan in)
            assert bound * 0.8 < tensor.abs().max() <= bound
