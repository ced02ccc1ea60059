"""Several data sets in one epoch: how many documents of each, and which.

    sources   a: 4 documents, weight 3    b: 4 documents, weight 1      epoch: 8 = 6 of a + 2 of b
    of a      a0 a1 a2 a3 + the two of them with the lowest keys        of b    the two with the lowest keys

An epoch is an array of document numbers. Which documents are taken depends on their content alone: those of a smaller
count are among those of a larger one, and rows added to one source change nothing about the others. Owns no order of
training (``batches`` shuffles each epoch) and no reading.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ftcluster.data.prepared.settings import Source
from ftcluster.errors import DataError


def lowest(keys: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Positions of the ``count`` lowest keys, in order of position; of equal keys the first."""
    return np.sort(np.argsort(keys, kind="stable")[:count])


class Chosen:
    """Which rows of a source its limit takes, asked for in the order of the files."""

    def __init__(self, keys: NDArray[np.uint64], limit: int) -> None:
        taken = lowest(keys, limit)
        self._mask = np.zeros(len(keys), np.bool_)
        self._mask[taken] = True
        self._at = 0
        self.below = int(keys[taken].max()) + 1 if len(taken) else 0  # rows with a key from here on are not taken

    def next(self, count: int) -> NDArray[np.bool_]:
        """The answer for the next rows."""
        start, self._at = self._at, self._at + count
        return self._mask[start : self._at]


def shares(sources: Sequence[Source], available: Sequence[int]) -> list[int]:
    """Documents of each source in an epoch, given how many it has.

    With weights an epoch is as long as all sources together; what rounding leaves over goes to the largest fractions.

    Raises:
        DataError: a source that is asked for documents and has none.
    """
    for source, rows in zip(sources, available, strict=True):
        if not rows and (source.weight or source.count):
            raise DataError(
                "no training rows are left of this source",
                where=f"data.sources.{source.name}",
                remedy="see why its rows were dropped (ftcluster data check), or leave the source out",
            )
    total_weight = sum(source.weight for source in sources)
    if not total_weight:
        return [source.count or rows for source, rows in zip(sources, available, strict=True)]
    total = sum(available)
    exact = [total * source.weight / total_weight for source in sources]
    whole = [int(share) for share in exact]
    by_fraction = sorted(range(len(sources)), key=lambda index: (whole[index] - exact[index], index))
    for index in by_fraction[: total - sum(whole)]:
        whole[index] += 1
    return whole


def epoch_of(
    sources: Sequence[Source], source_of: NDArray[np.integer], keys: NDArray[np.uint64]
) -> NDArray[np.int64] | None:
    """Document numbers of an epoch, ascending, or None where it is every document once.

    ``source_of`` and ``keys`` are aligned with the documents: the index of the source, and a hash of the content.

    Raises:
        DataError: as ``shares``.
    """
    if not any(source.weight or source.count for source in sources):
        return None
    owned = [np.flatnonzero(source_of == index) for index in range(len(sources))]
    wanted = shares(sources, [len(mine) for mine in owned])
    taken: list[NDArray[np.int64]] = []
    for mine, count in zip(owned, wanted, strict=True):
        repeats, rest = divmod(count, max(len(mine), 1))
        taken += [mine] * repeats + [mine[lowest(keys[mine], rest)]]
    return np.sort(np.concatenate(taken)).astype(np.int64)
