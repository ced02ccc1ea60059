"""Losses of tokens added up document by document."""

from __future__ import annotations

import torch
from torch import Tensor

from ftcluster.contracts.batch import Batch, LossSums


def document_sums(batch: Batch, at_N: Tensor, losses_N: Tensor, weights_N: Tensor) -> list[LossSums]:
    """Of each document of a batch; ``at_N`` is where in the stream the losses belong."""
    documents_N = batch.documents_T[at_N]
    loss_B, weight_B = torch.zeros(2, len(batch.lengths), dtype=torch.float64)
    loss_B.index_add_(0, documents_N, (losses_N * weights_N).double().cpu())
    weight_B.index_add_(0, documents_N, weights_N.double().cpu())
    sums = zip(loss_B.tolist(), weight_B.tolist(), batch.lengths, strict=True)
    return [LossSums(loss, weight, length) for loss, weight, length in sums]
