"""Next-token cross-entropy as sums: pre-training and supervised tuning differ only in the weights."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it


def token_losses(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """``-log softmax(logits)[target]`` per position in nats, [N], in fp32 or, for fp64 logits, fp64."""
    wide = logits_NV if logits_NV.dtype.itemsize >= 4 else logits_NV.float()
    return F.cross_entropy(wide, targets_N, reduction="none")
