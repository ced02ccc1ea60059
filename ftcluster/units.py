"""Quantities with their unit in the type: ``Duration`` (steps, tokens, epochs) and bytes for people."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal["steps", "tokens", "epochs"]
_PATTERN = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*(steps?|tokens?|epochs?)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Duration:
    """A length of training: ``Duration.parse("3 epochs")``."""

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read ``"200 steps"``, ``"1e6 tokens"`` or ``"2.5 epochs"``.

        Raises:
            ValueError: not a positive number followed by one of the three units.
        """
        match = _PATTERN.match(str(text))
        if not match or not 0 < (amount := float(match[1])) < math.inf:
            raise ValueError(f'"{text}" is not a duration; write "200 steps", "1e6 tokens" or "3 epochs"')
        unit: Unit = {"s": "steps", "t": "tokens", "e": "epochs"}[match[2][0].lower()]  # type: ignore[assignment]
        return cls(amount, unit)

    def steps(self, *, steps_per_epoch: int, tokens_per_step: float) -> int:
        """This duration in optimizer steps, at least 1, rounded up."""
        exact = {
            "steps": self.amount,
            "epochs": self.amount * steps_per_epoch,
            "tokens": self.amount / max(tokens_per_step, 1.0),
        }[self.unit]
        return max(1, math.ceil(exact - 1e-9))

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


def format_bytes(count: float) -> str:
    """``1536`` -> ``"1.5 KiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_count(count: float) -> str:
    """``999`` -> ``"999"``, ``1_234_567`` -> ``"1.23 M"``; three digits that matter."""
    for unit in ("", " k", " M", " G"):
        if abs(count) < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} T"


def format_seconds(seconds: float) -> str:
    """``75`` -> ``"1:15"``, ``3700`` -> ``"1:01:40"``; ``"-"`` when unknown (NaN or infinite)."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
