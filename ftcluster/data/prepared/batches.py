"""From prepared documents to ``Batch``: order, micro-batches, and the shift from tokens to targets.

Everything is a pure function of (documents, seed, step): a resumed run needs no more than its step number.
Owns no files (``documents`` does) and no padding: a batch is one stream, see ``contracts.batch``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ftcluster.contracts.batch import Batch
from ftcluster.data.prepared.documents import Documents
from ftcluster.data.prepared.packing import best_fit, packed_slots, padded_slots

_WIDEST_OF = 10_000  # steps that are looked at for the widest micro-batch; 10 microseconds each
_NEARLY = 0.95  # of the tokens of a micro-batch


def collate(documents: Sequence[tuple[NDArray[np.int32], NDArray[np.bool_]]], slots: Sequence[int]) -> Batch:
    """One stream of (tokens, trained) documents; a token's weight is whether the token after it is trained."""
    lengths = tuple(len(tokens) for tokens, _ in documents)
    tokens_T = np.concatenate([tokens for tokens, _ in documents]).astype(np.int64)
    weights_T = np.concatenate([trained for _, trained in documents]).astype(np.float32)
    last_B = np.cumsum(lengths) - 1
    targets_T, weights_T = np.roll(tokens_T, -1), np.roll(weights_T, -1)
    targets_T[last_B], weights_T[last_B] = 0, 0.0
    positions_T = np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])
    tokens, targets, weights, positions = map(torch.from_numpy, (tokens_T, targets_T, weights_T, positions_T))
    return Batch(tokens, targets, weights, positions, lengths, tuple(slots))


@dataclass(frozen=True)
class Efficiency:
    """Share of real tokens among the slots of micro-batches, 0 to 1.

    ``padded`` is what plain training would have: the rows of a micro-batch in their random order, each as long as the
    longest of them. ``packed`` is that of best fit into ``optim.micro_tokens``, None where that is not set: streams of
    ``optim.micro_batch`` rows have no slot without a token.
    """

    padded: float
    packed: float | None


class Loader:
    """Training batches of one trial. Every epoch reads the documents of ``epoch``, in an order of its own.

    ``epoch`` defaults to each document once. ``micro_tokens`` fills micro-batches of a step with documents of that
    many tokens together, by best fit; 0: ``micro_batch`` documents make one.
    """

    def __init__(
        self,
        documents: Documents,
        batch_size: int,
        micro_batch: int,
        seed: int,
        slot: int = 0,
        *,
        micro_tokens: int = 0,
        epoch: NDArray[np.int64] | None = None,
    ) -> None:
        self._documents = documents
        self._epoch = np.arange(len(documents)) if epoch is None else epoch
        self._batch_size = batch_size
        self._micro_batch = micro_batch
        self._micro_tokens = micro_tokens
        self._seed = seed
        self._slot = slot
        self._latest: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that read an epoch's documents; the last one may be smaller."""
        return math.ceil(len(self._epoch) / self._batch_size)

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens of a step."""
        return float(self._documents.lengths[self._epoch].sum()) / self.steps_per_epoch

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return int(self._documents.lengths[self._epoch].max())

    @property
    def most_tokens(self) -> int:
        """Of any micro-batch there can be, at most."""
        lengths = np.sort(self._documents.lengths[self._epoch])
        if self._micro_tokens:
            return max(self._micro_tokens, int(lengths[-1]))
        return int(lengths[-self._micro_batch :].sum())

    def widest(self, first: int, until: int) -> Batch:
        """The micro-batch with the most tokens of steps ``first`` to ``until``, or of the first 10,000 of them."""
        steps = range(first, max(first + 1, min(until, first + _WIDEST_OF)))
        widest = max(steps, key=self._width)
        return max(self.step_batches(widest), key=lambda batch: len(batch.tokens_T))

    def has_largest(self, first: int, until: int) -> bool:
        """Whether steps ``first`` to ``until`` have a micro-batch nearly as large as the largest of the first epoch."""
        most, found = self.widest(0, self.steps_per_epoch), self.widest(first, until)
        return len(found.tokens_T) >= _NEARLY * len(most.tokens_T)

    def _width(self, step: int) -> int:
        """Tokens of a step's largest micro-batch; where they are filled by best fit, what it may hold."""
        lengths = np.sort(self._documents.lengths[self._chosen(step)])
        if self._micro_tokens:
            return min(int(lengths.sum()), max(self._micro_tokens, int(lengths[-1])))
        return int(np.add.reduceat(lengths, np.arange(0, len(lengths), self._micro_batch)).max())

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The documents of an epoch in the order in which they are read.

        Sorting raw Philox words gives the same order on every numpy version; shuffling methods may change.
        """
        if self._latest[0] != epoch:
            words = np.random.Philox(key=np.array([self._seed, epoch], np.uint64)).random_raw(len(self._epoch))
            self._latest = (epoch, self._epoch[np.argsort(words, kind="stable")])
        return self._latest[1]

    def step_batches(self, step: int) -> list[Batch]:
        """Micro-batches of a 0-based step; how documents share them changes sums by rounding only."""
        chosen = self._chosen(step)
        lengths = self._documents.lengths[chosen]
        if self._micro_tokens:
            groups = [chosen[group] for group in best_fit(lengths, self._micro_tokens)]
        else:
            chosen = chosen[np.argsort(lengths, kind="stable")]
            groups = [chosen[at : at + self._micro_batch] for at in range(0, len(chosen), self._micro_batch)]
        return [_gather(self._documents, group, self._slot) for group in groups]

    def efficiency(self, most_steps: int = 200) -> Efficiency:
        """Of the first epoch, or of its first steps where it is long."""
        steps = range(min(self.steps_per_epoch, most_steps))
        lengths = [self._documents.lengths[self._chosen(step)] for step in steps]
        tokens = sum(int(of_step.sum()) for of_step in lengths)
        padded = tokens / sum(padded_slots(of_step, self._micro_batch) for of_step in lengths)
        if not self._micro_tokens:
            return Efficiency(padded, None)
        return Efficiency(padded, tokens / sum(packed_slots(of_step, self._micro_tokens) for of_step in lengths))

    def _chosen(self, step: int) -> NDArray[np.int64]:
        epoch, index = divmod(step, self.steps_per_epoch)
        return self.order(epoch)[index * self._batch_size : (index + 1) * self._batch_size]


def evaluation_batches(
    documents: Documents, indices: Iterable[int], max_tokens: int = 8192, slot: int = 0
) -> list[Batch]:
    """The documents in the given order, as many to a batch as ``max_tokens`` holds, at least one."""
    groups: list[list[int]] = []
    held = max_tokens
    for index in indices:
        length = int(documents.lengths[index])
        if held + length > max_tokens:
            groups.append([])
            held = 0
        groups[-1].append(index)
        held += length
    return [_gather(documents, group, slot) for group in groups]


def _gather(documents: Documents, indices: Iterable[int], slot: int) -> Batch:
    chosen = [documents.get(int(index)) for index in indices]
    return collate(chosen, [slot] * len(chosen))
