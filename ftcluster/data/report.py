"""What became of the rows of a data set: how many were read, used and dropped, why, and how long they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftcluster.data.documents import Documents
from ftcluster.data.source import BadRow

SHOWN = 50  # places kept per reason


@dataclass(frozen=True)
class Dropped:
    """Rows left out for one reason; ``where`` lists the first of them as file:line."""

    reason: str
    rows: int
    where: tuple[str, ...]


@dataclass(frozen=True)
class SplitSummary:
    """One side of the split; lengths in tokens, 0 where it is empty."""

    rows: int
    tokens: int
    trained_tokens: int
    shortest: int
    median: int
    p95: int
    longest: int

    @classmethod
    def of(cls, documents: Documents) -> SplitSummary:
        """Count one split."""
        lengths = documents.lengths if len(documents) else np.zeros(1, np.int64)
        shortest, median, p95, longest = (int(q) for q in np.quantile(lengths, (0, 0.5, 0.95, 1), method="higher"))
        return cls(len(documents), documents.tokens, documents.trained_tokens, shortest, median, p95, longest)


@dataclass(frozen=True)
class Report:
    """``rows_read`` = ``rows_used`` + all dropped."""

    rows_read: int
    rows_used: int
    rows_bad: int  # dropped because they could not be used, rather than because of a setting
    duplicates: int  # used rows whose text another used row has too
    formats: Mapping[str, str]  # file -> format
    dropped: tuple[Dropped, ...]
    splits: Mapping[str, SplitSummary]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """The inverse of ``dataclasses.asdict``."""
        dropped = tuple(Dropped(d["reason"], d["rows"], tuple(d["where"])) for d in values["dropped"])
        splits = {name: SplitSummary(**split) for name, split in values["splits"].items()}
        return cls(**{**values, "dropped": dropped, "splits": splits})


def count_dropped(rows: Iterable[BadRow]) -> tuple[Dropped, ...]:
    """Rows by reason, the most frequent first."""
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(row.reason, []).append(f"{row.file}:{row.line}")
    counted = [Dropped(reason, len(where), tuple(where[:SHOWN])) for reason, where in places.items()]
    return tuple(sorted(counted, key=lambda dropped: -dropped.rows))
