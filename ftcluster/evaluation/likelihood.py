"""Loss on held-out rows, per document and in total."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftcluster.contracts.batch import LossSums
from ftcluster.contracts.ports import Engine
from ftcluster.data.prepared.batches import evaluation_batches
from ftcluster.data.prepared.documents import Documents

_TOKENS = 8192  # of a batch; evaluation keeps no activations, so this is small


def document_losses(engine: Engine, slot: int, documents: Documents, rows: Sequence[int]) -> list[LossSums]:
    """Loss sums of the given rows, in their order."""
    found: dict[int, LossSums] = {}
    order = sorted(rows, key=lambda row: int(documents.lengths[row]))
    start = 0
    for batch in evaluation_batches(documents, order, _TOKENS, slot=slot):
        chosen = order[start : start + len(batch.lengths)]
        start += len(chosen)
        found.update(zip(chosen, engine.evaluate(batch), strict=True))
    return [found[row] for row in rows]


def loss_metrics(sums: Sequence[LossSums]) -> dict[str, float]:
    """``eval/loss`` in nats per trained token over all rows, and ``eval/perplexity``, its exponential."""
    loss = sum(sums, start=LossSums()).mean
    return {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 700.0))}
