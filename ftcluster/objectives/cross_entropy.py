"""Next-token cross-entropy as sums: pre-training and supervised tuning differ only in the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it


def token_losses(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """``-log softmax(logits)[target]`` per position in nats, [N], in fp32 or, for fp64 logits, fp64."""
    wide = logits_NV if logits_NV.dtype.itemsize >= 4 else logits_NV.float()
    return F.cross_entropy(wide, targets_N, reduction="none")


def head_losses(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> Tensor:
    """``token_losses`` of ``hidden weight^T + bias`` without ever holding all logits, [N].

    Logits are made, used and dropped for ``CHUNK`` numbers at a time, in the forward pass already for both the loss
    and its gradient with respect to ``hidden``; the head itself is frozen and gets none.
    """
    losses: Tensor = _HeadLosses.apply(hidden_NH, weight_VH, bias_V, targets_N)  # type: ignore[no-untyped-call]
    return losses


CHUNK = 1 << 24  # logits held at a time: 64 MiB in fp32


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> Tensor:
        rows = max(1, CHUNK // weight_VH.shape[0])
        losses, gradients = [], []
        for start in range(0, len(hidden_NH), rows):
            here = slice(start, start + rows)
            logits_CV = F.linear(hidden_NH[here], weight_VH, bias_V)
            wide_CV = logits_CV if logits_CV.dtype.itemsize >= 4 else logits_CV.float()
            log_probabilities_CV = F.log_softmax(wide_CV, dim=-1)
            targets_C1 = targets_N[here].unsqueeze(1)
            losses.append(-log_probabilities_CV.gather(1, targets_C1).squeeze(1))
            if ctx.needs_input_grad[0]:
                probabilities_CV = log_probabilities_CV.exp_()
                probabilities_CV.scatter_add_(1, targets_C1, probabilities_CV.new_full(targets_C1.shape, -1.0))
                gradients.append(probabilities_CV.to(weight_VH.dtype) @ weight_VH)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses) if losses else hidden_NH.new_zeros(0)

    @staticmethod
    def backward(ctx: Any, dlosses_N: Tensor) -> tuple[Tensor | None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        saved = ctx.saved_tensors
        if not saved:
            return None, None, None, None
        (gradient_NH,) = saved
        return (gradient_NH * dlosses_N.unsqueeze(1)).to(gradient_NH.dtype), None, None, None
