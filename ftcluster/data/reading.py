"""Reads the files of one side of a data set into examples, each file in the format it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ftcluster.data.formats import Example, detect, to_example
from ftcluster.data.source import BadRow, Row, read_rows

_LOOKED_AT = 50  # rows that show a file's format


@dataclass(frozen=True)
class Reading:
    """Examples and bad rows in the order of the files, and the format of each file."""

    examples: tuple[Example, ...]
    bad: tuple[BadRow, ...]
    formats: Mapping[str, str]


def read_examples(files: Sequence[str], format: str, columns: Mapping[str, str]) -> Reading:
    """Read all files; ``format`` "auto" detects the format of each.

    Raises:
        DataError: a file that cannot be read, or whose format is unknown.
    """
    examples: list[Example] = []
    bad: list[BadRow] = []
    formats: dict[str, str] = {}
    for file in files:
        found = list(read_rows(file))
        first = [row for row in found if isinstance(row, Row)][:_LOOKED_AT]
        if first:
            formats[file] = detect(first, columns) if format == "auto" else format
        for row in found:
            example = to_example(row, formats[file], columns) if isinstance(row, Row) else row
            if isinstance(example, Example):
                examples.append(example)
            else:
                bad.append(example)
    return Reading(tuple(examples), tuple(bad), formats)
