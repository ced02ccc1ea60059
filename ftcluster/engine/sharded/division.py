"""Who trains on what: the documents of a micro-batch divided over ranks, as evenly by tokens as they allow.

A document is never cut. Every rank takes part in every collective, so a rank that gets no document reads one token of
weight zero instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.engine.sharded.ranks import Ranks


@dataclass(frozen=True)
class Part:
    """One rank's documents of a batch; ``rows`` and ``places_T`` say where they stand in the whole."""

    batch: Batch
    rows: tuple[int, ...]  # none: the batch is a stand-in
    places_T: Tensor  # index of each token in the whole stream


def divide(lengths: tuple[int, ...], ranks: int) -> list[list[int]]:
    """Documents per rank: longest first, each to the rank with the fewest tokens so far (Graham 1969)."""
    rows: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        least = min(range(ranks), key=lambda rank: (tokens[rank], rank))
        rows[least].append(row)
        tokens[least] += lengths[row]
    return [sorted(mine) for mine in rows]


def part_of(batch: Batch, rank: int, ranks: int) -> Part:
    """What ``rank`` trains on."""
    rows = divide(batch.lengths, ranks)[rank]
    if not rows:
        return _stand_in(batch)
    sizes = torch.tensor(batch.lengths)
    starts = torch.cumsum(sizes, 0) - sizes
    places_T = torch.cat([torch.arange(batch.lengths[row]) + starts[row] for row in rows])
    mine = Batch(
        batch.tokens_T[places_T],
        batch.targets_T[places_T],
        batch.weights_T[places_T],
        batch.positions_T[places_T],
        tuple(batch.lengths[row] for row in rows),
        tuple(batch.slots[row] for row in rows),
    )
    return Part(mine, tuple(rows), places_T)


def evaluate_divided(batch: Batch, ranks: Ranks, evaluate: Callable[[Batch], list[LossSums]]) -> list[LossSums]:
    """Loss sums per document, of which each rank evaluates its part, slot by slot; all ranks must call it."""
    loss_B = torch.zeros(len(batch.lengths), dtype=torch.float64)
    for slot in sorted(set(batch.slots)):
        rows = [row for row, owner in enumerate(batch.slots) if owner == slot]
        part = part_of(batch.select(slot), ranks.rank, ranks.size)
        for row, sums in zip(part.rows, evaluate(part.batch), strict=False):  # of a stand-in nothing counts
            loss_B[rows[row]] = sums.loss
    ranks.total(loss_B)
    weight_B = torch.zeros(len(batch.lengths), dtype=torch.float64)
    weight_B.index_add_(0, batch.documents_T, batch.weights_T.double())
    pairs = zip(loss_B.tolist(), weight_B.tolist(), batch.lengths, strict=True)
    return [LossSums(loss, weight, length) for loss, weight, length in pairs]


def one_token(slot: int) -> Batch:
    """The least a rank can take part in a pass with."""
    one = torch.zeros(1, dtype=torch.int64)
    return Batch(one, one, torch.ones(1), one, (1,), (slot,))


def _stand_in(batch: Batch) -> Part:
    zero = torch.zeros(1, dtype=torch.int64)
    one = Batch(batch.tokens_T[:1], batch.targets_T[:1], torch.zeros(1), zero, (1,), batch.slots[:1])
    return Part(one, (), zero)
