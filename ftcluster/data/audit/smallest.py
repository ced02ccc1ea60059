"""The items with the smallest keys out of any number of them, put together from parts in any order."""

from __future__ import annotations

import heapq
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

ALL_KEYS = 2**64  # above every key
_PARTS = 64  # held side by side before they are put together

T = TypeVar("T")


@dataclass(frozen=True)
class Smallest(Generic[T]):
    """The ``most`` items with the smallest keys; of two with one key, the smaller item."""

    most: int
    parts: tuple[Mapping[int, T], ...] = ()
    cutoff: int = ALL_KEYS  # no item with this key or a larger one can be among them

    def __add__(self, other: Smallest[T]) -> Smallest[T]:
        parts, cutoff = self.parts + other.parts, min(self.cutoff, other.cutoff)
        # Putting parts together at every addition would copy for ever, and cutting at every addition would sort.
        if len(parts) <= _PARTS and sum(map(len, parts)) <= 2 * self.most:
            return Smallest(self.most, parts, cutoff)
        items = _merged(parts, cutoff)
        if len(items) <= 2 * self.most:
            return Smallest(self.most, (items,), cutoff)
        kept = heapq.nsmallest(self.most, items)
        return Smallest(self.most, ({key: items[key] for key in kept},), kept[-1] + 1)

    def only(self, keys: Container[int]) -> Smallest[T]:
        """The items with one of these keys."""
        parts = ({key: item for key, item in part.items() if key in keys} for part in self.parts)
        return replace(self, parts=tuple(parts))

    def values(self) -> list[T]:
        """The items in the order of their keys."""
        items = _merged(self.parts, self.cutoff)
        return [items[key] for key in heapq.nsmallest(self.most, items)]


def _merged(parts: Sequence[Mapping[int, T]], cutoff: int) -> dict[int, T]:
    items: dict[int, Any] = {}
    for part in parts:
        for key, item in part.items():
            if key < cutoff:
                items[key] = min(items[key], item) if key in items else item
    return items
