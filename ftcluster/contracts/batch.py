"""What an engine is fed: one padding-free stream of tokens that may belong to several trials.

Legend for tensor suffixes, used in the whole project:

    B documents in a batch   T tokens in a stream   V vocabulary   H hidden size   S slots (trials)

Documents lie one after the other in the stream::

    tokens_T     a0 a1 a2 | b0 b1 | c0 c1 c2 c3
    positions_T   0  1  2 |  0  1 |  0  1  2  3
    lengths           3   |   2   |      4
    slots             0   |   1   |      0          (a and c belong to the trial in slot 0)

A token predicts its target, which the loader has already shifted: ``targets_T[i]`` is the token that
follows ``tokens_T[i]`` in the same document. Weight 0 means "carries no loss"; the last token of a
document always has weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch; see the module's drawing."""

    tokens_T: Tensor  # int64 [T]
    targets_T: Tensor  # int64 [T]
    weights_T: Tensor  # float32 [T], >= 0
    positions_T: Tensor  # int64 [T]
    lengths: tuple[int, ...]  # B entries, sum T
    slots: tuple[int, ...]  # B entries

    @cached_property
    def documents_T(self) -> Tensor:
        """Index of the document each token belongs to, int64 [T]."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))

    @cached_property
    def slots_T(self) -> Tensor:
        """Slot of the trial each token belongs to, int64 [T]."""
        return torch.repeat_interleave(torch.tensor(self.slots), torch.tensor(self.lengths))

    def weight(self, slot: int) -> float:
        """Sum of the loss weights of one slot's tokens."""
        return float(self.weights_T[self.slots_T == slot].double().sum())

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """One stream of several, in their order."""
        return cls(
            torch.cat([batch.tokens_T for batch in batches]),
            torch.cat([batch.targets_T for batch in batches]),
            torch.cat([batch.weights_T for batch in batches]),
            torch.cat([batch.positions_T for batch in batches]),
            tuple(length for batch in batches for length in batch.lengths),
            tuple(slot for batch in batches for slot in batch.slots),
        )

    def cut(self, at: int) -> tuple[Batch, Batch]:
        """The documents before number ``at``, and the others."""
        return self._documents(slice(at)), self._documents(slice(at, None))

    def _documents(self, wanted: slice) -> Batch:
        first, _, _ = wanted.indices(len(self.lengths))
        start = sum(self.lengths[:first])
        here_T = slice(start, start + sum(self.lengths[wanted]))
        return Batch(
            self.tokens_T[here_T],
            self.targets_T[here_T],
            self.weights_T[here_T],
            self.positions_T[here_T],
            self.lengths[wanted],
            self.slots[wanted],
        )

    def select(self, slot: int) -> Batch:
        """The documents of one slot, in their order."""
        if all(s == slot for s in self.slots):
            return self
        keep_T = self.slots_T == slot
        mine = [(n, s) for n, s in zip(self.lengths, self.slots, strict=True) if s == slot]
        return Batch(
            self.tokens_T[keep_T],
            self.targets_T[keep_T],
            self.weights_T[keep_T],
            self.positions_T[keep_T],
            tuple(n for n, _ in mine),
            tuple(s for _, s in mine),
        )


@dataclass(frozen=True)
class LossSums:
    """Weighted loss and its weight, both summed: they add over micro-batches and ranks, means do not."""

    loss: float = 0.0  # nats x weight
    weight: float = 0.0
    tokens: int = 0  # tokens read, trained on or not

    def __add__(self, other: LossSums) -> LossSums:
        return LossSums(self.loss + other.loss, self.weight + other.weight, self.tokens + other.tokens)

    @property
    def mean(self) -> float:
        """Loss per unit of weight in nats; NaN where nothing was trained."""
        return self.loss / self.weight if self.weight else float("nan")
