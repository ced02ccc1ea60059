"""From prepared documents to ``Batch``: order, micro-batches, and the shift from tokens to targets.

Everything is a pure function of (documents, seed, step): a resumed run needs no more than its step number.
Owns no files (``documents`` does) and no padding: a batch is one stream, see ``contracts.batch``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ftcluster.contracts.batch import Batch
from ftcluster.data.documents import Documents


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


class Loader:
    """Training batches of one trial. Every epoch reads each document once, in an order of its own."""

    def __init__(self, documents: Documents, batch_size: int, micro_batch: int, seed: int, slot: int = 0) -> None:
        self._documents = documents
        self._batch_size = batch_size
        self._micro_batch = micro_batch
        self._seed = seed
        self._slot = slot
        self._latest: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that read every document once; the last one may be smaller."""
        return math.ceil(len(self._documents) / self._batch_size)

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens of a step."""
        return float(self._documents.lengths.sum()) / self.steps_per_epoch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's permutation of the documents.

        Sorting raw Philox words gives the same order on every numpy version; shuffling methods may change.
        """
        if self._latest[0] != epoch:
            words = np.random.Philox(key=np.array([self._seed, epoch], np.uint64)).random_raw(len(self._documents))
            self._latest = (epoch, np.argsort(words, kind="stable"))
        return self._latest[1]

    def step_batches(self, step: int) -> list[Batch]:
        """Micro-batches of a 0-based step; documents of like length share one, which changes sums by rounding only."""
        epoch, index = divmod(step, self.steps_per_epoch)
        chosen = self.order(epoch)[index * self._batch_size : (index + 1) * self._batch_size]
        chosen = chosen[np.argsort(self._documents.lengths[chosen], kind="stable")]
        groups = (chosen[at : at + self._micro_batch] for at in range(0, len(chosen), self._micro_batch))
        return [_gather(self._documents, group, self._slot) for group in groups]


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
