"""Which examples of a side become its documents, and when a data set is refused as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from ftcluster.data.documents import Document, Documents
from ftcluster.data.folder import Side
from ftcluster.data.formats import Example
from ftcluster.data.report import Report
from ftcluster.data.source import BadRow
from ftcluster.data.template import Tokeniser
from ftcluster.errors import DataError

_LISTED = 10  # bad rows an error names


class Selection:
    """Takes examples in their order; leaves out those that are too long or beyond ``limit`` (0: no limit)."""

    def __init__(self, max_length: int, limit: int) -> None:
        self._max_length = max_length
        self._limit = limit
        self._examples: list[Example] = []
        self._documents: list[Document] = []
        self.bad: list[BadRow] = []
        self.dropped: list[BadRow] = []

    def take(self, examples: Sequence[Example], tokeniser: Tokeniser) -> None:
        """Tokenise examples, unless there are enough already, and keep the usable ones."""
        documents = [None] * len(examples) if self._full else tokeniser(examples)
        for example, document in zip(examples, documents, strict=True):
            if isinstance(document, BadRow):
                self.bad.append(document)
            elif self._full or document is None:
                self._drop(example, f"behind the first {self._limit} training rows (data.limit)")
            elif len(document.tokens) > self._max_length:
                self._drop(example, f"longer than {self._max_length} tokens (data.max_length)")
            else:
                self._examples.append(example)
                self._documents.append(document)

    def side(self) -> Side:
        """What was kept."""
        return Side(tuple(self._examples), Documents.of(self._documents))

    @property
    def _full(self) -> bool:
        return 0 < self._limit <= len(self._examples)

    def _drop(self, example: Example, reason: str) -> None:
        self.dropped.append(BadRow(example.file, example.line, reason))


def refuse_many_bad(bad: Sequence[BadRow], rows: int, allowed: float) -> None:
    """Raises a DataError when more than the allowed share of the rows cannot be used."""
    if len(bad) > allowed * rows:
        listed = "".join(f"\n  {row}" for row in bad[:_LISTED])
        more = f"\n  and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        raise DataError(
            f"{len(bad)} of {rows} rows cannot be used, at most {100 * allowed:g} % may be bad:{listed}{more}",
            where="data",
            remedy="repair these rows, or allow more with data.max_bad_rows",
        )


def empty_side(split: str, report: Report) -> DataError:
    """The error for a side of the split that has no rows."""
    reasons = "".join(f"\n  {dropped.rows} rows: {dropped.reason}" for dropped in report.dropped)
    remedies = {
        "train": "give more rows, or a larger data.max_length",
        "validation": "give more rows, a larger data.validation_fraction, or files of their own in data.validation",
        "test": "give more rows, a larger data.test_fraction, files of their own in data.test, or "
        "data.test_fraction=0 to do without",
    }
    return DataError(
        f"no rows are left for {split}; {report.rows_used} of {report.rows_read} rows were used{reasons}",
        where="data",
        remedy=remedies[split],
    )
