"""What became of the rows of a data set: how many were read, used, cut and dropped, why, and how long they are.

Owns the counts and the errors that refuse a data set as a whole. What the texts look like is ``audit``'s, which fills
``Report.audit``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftcluster.data.files.source import BadRow
from ftcluster.errors import DataError

SHOWN = 50  # places kept per reason
_LISTED = 10  # bad rows an error names


@dataclass(frozen=True)
class Dropped:
    """Rows left out, or cut, for one reason; ``where`` lists the first of them as file:line."""

    reason: str
    rows: int
    where: tuple[str, ...]


@dataclass(frozen=True)
class SplitSummary:
    """One side of the split; lengths in tokens, 0 where it is empty. A row that was split has several documents."""

    rows: int
    documents: int
    tokens: int
    trained_tokens: int
    shortest: int
    median: int
    p95: int
    longest: int

    @classmethod
    def of(cls, rows: int, lengths: NDArray[np.int64], trained_tokens: int) -> SplitSummary:
        """Count one split."""
        known = lengths if len(lengths) else np.zeros(1, np.int64)
        shortest, median, p95, longest = (int(q) for q in np.quantile(known, (0, 0.5, 0.95, 1), method="higher"))
        return cls(rows, len(lengths), int(lengths.sum()), trained_tokens, shortest, median, p95, longest)


@dataclass(frozen=True)
class SourceSummary:
    """Training documents of one source: those there are, and those an epoch reads."""

    documents: int
    tokens: int
    epoch_documents: int
    epoch_tokens: int


@dataclass(frozen=True)
class EpochSummary:
    """What one epoch of training reads."""

    documents: int
    tokens: int


@dataclass(frozen=True)
class Bin:
    """Rows of at most ``tokens`` tokens, before any cut, and more than the bin before."""

    tokens: int
    rows: int


@dataclass(frozen=True)
class Report:
    """``rows_read`` = ``rows_used`` + all dropped."""

    rows_read: int
    rows_used: int
    rows_bad: int  # dropped because they could not be used, rather than because of a setting
    duplicates: int  # used rows whose text another used row has too
    max_length: int
    formats: Mapping[str, str]  # file -> format
    dropped: tuple[Dropped, ...]
    cut: tuple[Dropped, ...]  # used rows: shortened, split, with tools as text, or not asked
    lengths: tuple[Bin, ...]
    splits: Mapping[str, SplitSummary]
    sources: Mapping[str, SourceSummary]
    epoch: EpochSummary
    audit: Mapping[str, Any] = field(default_factory=dict)  # see ``audit``
    copies: tuple[str, ...] = ()  # the first of the duplicates, each with the row it is a copy of

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """The inverse of ``dataclasses.asdict``."""
        return cls(
            **{
                **values,
                "dropped": _dropped(values["dropped"]),
                "cut": _dropped(values["cut"]),
                "lengths": tuple(Bin(**one) for one in values["lengths"]),
                "splits": {name: SplitSummary(**split) for name, split in values["splits"].items()},
                "sources": {name: SourceSummary(**source) for name, source in values["sources"].items()},
                "epoch": EpochSummary(**values["epoch"]),
                "copies": tuple(values["copies"]),
            }
        )


def _dropped(values: Sequence[Mapping[str, Any]]) -> tuple[Dropped, ...]:
    return tuple(Dropped(value["reason"], value["rows"], tuple(value["where"])) for value in values)


class Reasons:
    """Counts rows by reason and keeps the first places of each."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._places: dict[str, list[str]] = {}

    def add(self, reason: str, file: str, lines: Sequence[int]) -> None:
        """Count rows, in the order of the files."""
        if lines:
            self._rows[reason] = self._rows.get(reason, 0) + len(lines)
            kept = self._places.setdefault(reason, [])
            kept += [f"{file}:{line}" for line in lines[: SHOWN - len(kept)]]

    def counted(self) -> tuple[Dropped, ...]:
        """The most frequent reason first."""
        found = [Dropped(reason, rows, tuple(self._places[reason])) for reason, rows in self._rows.items()]
        return tuple(sorted(found, key=lambda dropped: (-dropped.rows, dropped.reason)))


class Histogram:
    """Rows by their tokens: sixteen bins up to the largest length, and one for each doubling above it."""

    def __init__(self, max_length: int) -> None:
        below = [-(-max_length * part // 16) for part in range(1, 17)]
        above = [max_length << power for power in range(1, 40)]
        self._ends = np.array(sorted({*below, *above}), np.int64)
        self._rows = np.zeros(len(self._ends), np.int64)

    def add(self, lengths: NDArray[np.int64]) -> None:
        """Count rows of these lengths."""
        self._rows += np.bincount(np.searchsorted(self._ends, lengths), minlength=len(self._ends))

    def bins(self, max_length: int) -> tuple[Bin, ...]:
        """All bins up to ``max_length``, and those above it up to the last that has rows."""
        last = max([index for index, rows in enumerate(self._rows) if rows], default=0)
        shown = [i for i, end in enumerate(self._ends) if end <= max_length or i <= last]
        return tuple(Bin(int(self._ends[index]), int(self._rows[index])) for index in shown)


def refuse_many_bad(bad: int, first: Sequence[BadRow], rows: int, allowed: float) -> None:
    """Refuse a data set of whose rows more than the allowed share cannot be used.

    Raises:
        DataError: naming the first of them.
    """
    if bad > allowed * rows:
        listed = "".join(f"\n  {row}" for row in first[:_LISTED])
        more = f"\n  and {bad - _LISTED} more" if bad > _LISTED else ""
        raise DataError(
            f"{bad} of {rows} rows cannot be used, at most {100 * allowed:g} % may be bad:{listed}{more}",
            where="data",
            remedy="repair these rows, or allow more with data.max_bad_rows",
        )


def empty_side(split: str, used: int, rows: int, dropped: Sequence[Dropped]) -> DataError:
    """The error for a side of the split that has no rows."""
    reasons = "".join(f"\n  {found.rows} rows: {found.reason}" for found in dropped)
    remedies = {
        "train": "give more rows, or a larger data.max_length",
        "validation": "give more rows, a larger data.validation_fraction, or files of their own in data.validation",
        "test": "give more rows, a larger data.test_fraction, files of their own in data.test, or "
        "data.test_fraction=0 to do without",
    }
    return DataError(
        f"no rows are left for {split}; {used} of {rows} rows were used{reasons}",
        where="data",
        remedy=remedies[split],
    )
