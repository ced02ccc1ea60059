"""Parameters of trials as columns of numbers, for a linear model of what they do.

A number is itself (or its logarithm) and, where there are trials enough, its square and cube; anything else has a
column for each level but the first. A parameter that is missing in some trials has a column for that, unless others
tell: a rank is missing where there is no adapter.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftcluster.comparison.findings import value_text

Array = NDArray[np.float64]
SPARE = 4  # trials beyond the columns of the model, below which nothing can be said
_POWERS = (2, 3)
_TINY, _SAME = 1e-9, 1e-6


@dataclass(frozen=True)
class Design:
    """Columns by parameter; ``twins`` changed only together with others, so theirs say nothing that others do not."""

    blocks: Mapping[str, Array]
    twins: frozenset[str]

    @property
    def needed(self) -> int:
        """Trials it takes to say anything."""
        return int(1 + sum(block.shape[1] for block in self.blocks.values()) + SPARE)


def design(parameters: Sequence[Mapping[str, Any]], log_keys: Collection[str]) -> Design:
    """Those of the parameters that differ between trials."""
    keys = dict.fromkeys(key for one in parameters for key in one)
    given = {key: [one.get(key) for one in parameters] for key in keys}
    given = {key: values for key, values in given.items() if len({value_text(value) for value in values}) > 1}
    straight = _with_gaps({key: _straight(each, key in log_keys) for key, each in given.items()}, given)
    twins = frozenset(key for key in given if not _own(key, straight, len(parameters)))
    return Design(_curved(straight, given, log_keys), twins)


def basis(blocks: Sequence[Array], count: int) -> Array:
    """Perpendicular columns of length 1 that span the mean and these columns."""
    vectors, sizes, _ = np.linalg.svd(np.column_stack([np.ones(count), *blocks]), full_matrices=False)
    found: Array = vectors[:, sizes > sizes[0] * _TINY]
    return found


def _own(key: str, blocks: Mapping[str, Array], count: int) -> bool:
    """Whether a parameter has columns that those of the others do not make up."""
    without = basis([block for other, block in blocks.items() if other != key], count)
    return bool(basis([*blocks.values()], count).shape[1] > without.shape[1])


def _curved(
    straight: Mapping[str, Array], given: Mapping[str, Sequence[Any]], log_keys: Collection[str]
) -> dict[str, Array]:
    """With powers of numbers, as far as they say what no other columns do and trials are left over."""
    count = max(map(len, given.values()), default=0)
    found = dict(straight)
    for power in _POWERS:
        wider = dict(found)
        for key, values in given.items():
            if _numbers(values) and len(set(values) - {None}) > power:
                more = _among_present(_scaled(values, key in log_keys) ** power, values)
                if not _tells_nothing(more, [*wider.values()]):
                    wider[key] = np.column_stack([wider[key], more])
        if count - 1 - sum(block.shape[1] for block in wider.values()) < max(SPARE, count // 3):
            break
        found = wider
    return found


def _numbers(values: Sequence[Any]) -> bool:
    return all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values)


def _straight(values: Sequence[Any], log: bool) -> Array:
    """A number itself, or a column for each level but the first."""
    if _numbers(values):
        return _among_present(_scaled(values, log), values)[:, None]
    texts = [value_text(value) for value in values]
    levels = list(dict.fromkeys(text for text, value in zip(texts, values, strict=True) if value is not None))
    columns = [_among_present(np.array([float(text == level) for text in texts]), values) for level in levels[1:]]
    return np.column_stack(columns) if columns else np.zeros((len(values), 0))


def _scaled(values: Sequence[Any], log: bool) -> Array:
    present = [float(value) for value in values if value is not None]
    if log and min(present) > 0:
        values = [None if value is None else math.log(value) for value in values]
        present = [math.log(value) for value in present]
    middle, spread = float(np.mean(present)), float(np.std(present)) or 1.0
    return np.array([0.0 if value is None else (value - middle) / spread for value in values])


def _among_present(column: Array, values: Sequence[Any]) -> Array:
    """Differences among those that have a parameter, and nothing of what having it does."""
    present = np.array([value is not None for value in values])
    centred: Array = np.where(present, column - column[present].mean(), 0.0)
    return centred


def _with_gaps(blocks: Mapping[str, Array], given: Mapping[str, Sequence[Any]]) -> dict[str, Array]:
    """Where a parameter is missing is a column of it too, unless others tell: a rank is missing without an adapter."""
    gaps = {key: np.array([float(value is None) for value in values]) for key, values in given.items()}
    gaps = {key: gap for key, gap in gaps.items() if gap.any()}
    for key, gap in list(gaps.items()):
        told = [block for other, block in blocks.items() if other != key]
        if _tells_nothing(gap, [*told, *(each for other, each in gaps.items() if other != key)]):
            del gaps[key]
    return {key: np.column_stack([block, gaps[key]]) if key in gaps else block for key, block in blocks.items()}


def _tells_nothing(column: Array, others: Sequence[Array]) -> bool:
    """Whether other columns make it up."""
    known = basis(others, len(column))
    return bool(np.abs(column - known @ (known.T @ column)).max() < _SAME)
