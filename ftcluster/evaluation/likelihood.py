"""Loss on held-out rows, per document and in total."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.contracts.ports import Engine
from ftcluster.data.prepared.batches import evaluation_batches
from ftcluster.data.prepared.documents import Documents
from ftcluster.engine.sharded.engine import ShardedEngine
from ftcluster.engine.shortage import give_back, is_shortage, let_go

_TOKENS = 8192  # of a batch; evaluation keeps no activations, so this is small


def document_losses(engine: Engine, slot: int, documents: Documents, rows: Sequence[int]) -> list[LossSums]:
    """Loss sums of the given rows, in their order."""
    found: dict[int, LossSums] = {}
    order = sorted(rows, key=lambda row: int(documents.lengths[row]))
    start = 0
    for batch in evaluation_batches(documents, order, _TOKENS, slot=slot):
        chosen = order[start : start + len(batch.lengths)]
        start += len(chosen)
        found.update(zip(chosen, _evaluated(engine, batch), strict=True))
    return [found[row] for row in rows]


def _evaluated(engine: Engine, batch: Batch) -> list[LossSums]:
    """In two parts, and so on, where memory is not enough for all of it."""
    try:
        return engine.evaluate(batch)
    except Exception as error:
        # No group of ranks survives it.
        if len(batch.lengths) == 1 or isinstance(engine, ShardedEngine) or not is_shortage(error):
            raise
        let_go(error)
    give_back()
    return [sums for part in batch.cut(len(batch.lengths) // 2) for sums in _evaluated(engine, part)]


def loss_metrics(sums: Sequence[LossSums]) -> dict[str, float]:
    """``eval/loss`` in nats per trained token over all rows, and ``eval/perplexity``, its exponential."""
    loss = sum(sums, start=LossSums()).mean
    return {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 700.0))}
