"""Learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["cosine", "linear", "constant"]
SHAPES: tuple[Shape, ...] = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then one of three shapes down to ``peak * final``.

    ``warmup`` counts steps. The first step already has a rate above zero: step ``s`` (from 0) of the warm-up
    gets ``peak * (s + 1) / (warmup + 1)``, so no step is spent on learning nothing.
    """

    peak: float
    total: int
    warmup: int = 0
    shape: Shape = "cosine"
    final: float = 0.0

    def lr(self, step: int) -> float:
        """Rate of the 0-based ``step``."""
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        if self.shape == "constant":
            return self.peak
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        left = 1 - done if self.shape == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * (self.final + (1 - self.final) * left)
