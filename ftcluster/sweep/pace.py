"""How often something is done that costs more the larger a sweep is: neither too often nor most of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Pace:
    """At most every ``every`` seconds, and at most a ``share`` of the time."""

    clock: Callable[[], float]
    every: float = 0.0
    share: float = 1.0
    _next: float = 0.0

    @property
    def due(self) -> bool:
        """Whether it may be done again."""
        return self.clock() >= self._next

    @contextmanager
    def doing(self) -> Iterator[None]:
        """Around what is done."""
        began = self.clock()
        yield
        ended = self.clock()
        self._next = max(began + self.every, ended + (ended - began) * (1 / self.share - 1))
