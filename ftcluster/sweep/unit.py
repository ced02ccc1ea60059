"""Dimensions as the unit interval: the value at a fraction, and the fraction of a value."""

from __future__ import annotations

import math
from typing import Any

from ftcluster.config.grammar import Dimension, Interval
from ftcluster.sweep.space import levels


def value_at(dimension: Dimension, u: float) -> Any:
    """Where the fraction ``u`` of a dimension lies, 0 <= u < 1."""
    values = levels(dimension)
    if values is not None:
        return values[index_at(dimension, u)]
    assert isinstance(dimension, Interval)
    low, high = dimension.low, dimension.high
    value = low * math.pow(high / low, u) if dimension.log else low + (high - low) * float(u)
    return min(max(value, low), high)


def index_at(dimension: Dimension, u: float) -> int:
    """Which of the values that can be listed lies at a fraction."""
    values = levels(dimension)
    assert values is not None
    if isinstance(dimension, Interval) and dimension.log:
        # Half a step beyond both ends, so that the first and the last number get their full share.
        low, high = dimension.low - 0.5, dimension.high + 0.5
        return min(max(round(low * math.pow(high / low, u)) - int(dimension.low), 0), len(values) - 1)
    return int(u * len(values))


def fraction(dimension: Dimension, value: Any) -> float:
    """The middle of the fractions at which a value lies."""
    values = levels(dimension)
    if isinstance(dimension, Interval):
        half = 0.5 if values is not None else 0.0
        low, high = dimension.low - half, dimension.high + half
        if dimension.log:
            return math.log(value / low) / math.log(high / low)
        return float(value - low) / (high - low)
    assert values is not None
    return (values.index(value) + 0.5) / len(values)
