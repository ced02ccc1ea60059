"""Which documents share a micro-batch of bounded size: best-fit decreasing bin packing.

    capacity 8, documents of 6 5 3 2 1 tokens   ->   6+2 | 5+3 | 1

The longest document comes first, and each goes where the least room is left that still holds it; that takes at most
11/9 of the fewest bins possible, and one (Johnson 1973), in O(n log capacity). Owns no batches (``batches`` does).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ftcluster.errors import DataError


def best_fit(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Indices of ``lengths`` by bin; equal lengths are taken in their order, so equal input packs equally.

    Raises:
        DataError: a document that no bin can hold.
    """
    sizes = np.asarray(lengths, np.int64)
    if len(sizes) and int(sizes.max()) > capacity:
        raise DataError(
            f"a document of {int(sizes.max())} tokens does not fit into micro-batches of {capacity}",
            where="optim.micro_tokens",
            remedy="set it to data.max_length or more",
        )
    rooms = _Rooms(capacity)
    bins: list[list[int]] = []
    for index in np.argsort(-sizes, kind="stable").tolist():
        length = int(sizes[index])
        found = rooms.take(length)
        if found is None:
            bins.append([])
            found = len(bins) - 1, capacity
        number, room = found
        bins[number].append(index)
        rooms.put(number, room - length)
    return bins


def packed_slots(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> int:
    """Tokens that the micro-batches of ``best_fit`` have room for."""
    return len(best_fit(lengths, capacity)) * capacity


def padded_slots(lengths: Sequence[int] | NDArray[np.int64], rows: int) -> int:
    """Tokens of the same documents in their order, ``rows`` to a batch, each padded to the longest of its batch."""
    sizes = np.asarray(lengths, np.int64)
    batches = [sizes[at : at + rows] for at in range(0, len(sizes), rows)]
    return sum(len(batch) * int(batch.max()) for batch in batches)


class _Rooms:
    """Open bins by the room they have left: a tree of maxima over the sizes 0..capacity finds the best fit."""

    def __init__(self, capacity: int) -> None:
        self._leaves = 1 << capacity.bit_length()
        self._largest = [0] * (2 * self._leaves)  # of an inner node: the largest room below it
        self._bins: dict[int, list[int]] = {}

    def put(self, number: int, room: int) -> None:
        if room == 0:
            return  # every document has a token
        held = self._bins.setdefault(room, [])
        held.append(number)
        if len(held) == 1:
            self._set(room, room)

    def take(self, length: int) -> tuple[int, int] | None:
        """The bin with the least room that holds ``length``, and that room."""
        if self._largest[1] < length:
            return None
        node = 1
        while node < self._leaves:
            node *= 2
            if self._largest[node] < length:  # rooms on the left are smaller than all on the right
                node += 1
        room = node - self._leaves
        held = self._bins[room]
        number = held.pop()
        if not held:
            self._set(room, 0)
        return number, room

    def _set(self, room: int, value: int) -> None:
        node = room + self._leaves
        self._largest[node] = value
        while node > 1:
            node //= 2
            self._largest[node] = max(self._largest[2 * node], self._largest[2 * node + 1])
