"""AdamW (Loshchilov & Hutter 2019) over rows, each row a trial with rates of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ftcluster.contracts.ports import OptimizerSettings


@dataclass(frozen=True)
class Update:
    """One row's next step: its number, counted from 1, and its rates."""

    step: int
    lr: float
    settings: OptimizerSettings


def clip_factor(norm: float, clip: float) -> float:
    """What gradients are multiplied by, as ``torch.nn.utils.clip_grad_norm_`` does it; ``clip`` 0: nothing."""
    return min(1.0, clip / (norm + 1e-6)) if clip > 0 else 1.0


def adamw_(w_NP: Tensor, g_NP: Tensor, m_NP: Tensor, v_NP: Tensor, updates: Sequence[Update], is_b_P: Tensor) -> None:
    """Step N rows of P numbers in place: masters, gradients (already clipped), first and second moments.

    ``is_b_P`` says which numbers belong to a B, whose rate LoRA+ sets apart. Elementwise, so a row's bits do not
    depend on the other rows.
    """

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=w_NP.dtype, device=w_NP.device).unsqueeze(1)

    def by_rate(values: Sequence[tuple[float, float]]) -> Tensor:
        """What the rates of A and of B make of each row: [N, 1] where no row tells them apart, else [N, P]."""
        of_a, of_b = column([a for a, _ in values]), column([b for _, b in values])
        return of_a if all(a == b for a, b in values) else torch.where(is_b_P, of_b, of_a)

    rates = [(u.lr, u.lr * u.settings.lora_plus) for u in updates]
    beta1 = column([u.settings.beta1 for u in updates])
    beta2 = column([u.settings.beta2 for u in updates])
    decays = [u.settings.weight_decay for u in updates]
    w_NP.mul_(by_rate([(1 - a * decay, 1 - b * decay) for (a, b), decay in zip(rates, decays, strict=True)]))
    m_NP.mul_(beta1).add_(g_NP * (1 - beta1))
    v_NP.mul_(beta2).add_(g_NP * g_NP * (1 - beta2))
    correction = column([(1 - u.settings.beta2**u.step) ** 0.5 for u in updates])
    denominator = (v_NP.sqrt() / correction).add_(column([u.settings.eps for u in updates]))
    first = [1 - u.settings.beta1**u.step for u in updates]
    w_NP.sub_(m_NP / denominator * by_rate([(a / bias, b / bias) for (a, b), bias in zip(rates, first, strict=True)]))
