"""Rows of files one after the other, each with the example it holds: what the tools on data files work through.

Holds one block of rows at a time, whatever the size of the files. Preparing data for a training is ``prepare``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ftcluster.data.files.blocks import rows
from ftcluster.data.files.source import BadRow, Row
from ftcluster.data.prepared.report import Reasons
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.formats import to_example
from ftcluster.data.rows.reading import DataFile, works

Progress = Callable[[int], None]  # rows done


@dataclass(frozen=True)
class Read:
    """One row: as it stands in the file unless that cannot be read, and the example or why there is none."""

    row: Row | None
    example: Example | BadRow
    format: str
    file: DataFile


def data_files(names: Sequence[str], format: str, columns: Mapping[str, str]) -> list[DataFile]:
    """Files that are read alike; ``format`` "auto" detects that of each file."""
    return [DataFile(number, name, format=format, columns=columns) for number, name in enumerate(names)]


def read_files(files: Sequence[DataFile], progress: Progress | None = None) -> Iterator[Read]:
    """Every row of the files in their order.

    Raises:
        DataError: a file that cannot be read, or whose format is unknown.
    """
    done = 0
    for file in files:
        for work in works(file):
            for row in rows(work.block):
                example = to_example(row, work.format, file.columns) if isinstance(row, Row) else row
                yield Read(row if isinstance(row, Row) else None, example, work.format, file)
                done += 1
            if progress:
                progress(done)


def note(reasons: Reasons, row: Example | BadRow, reason: str = "") -> None:
    """Count a row, for its own reason unless another is given."""
    reasons.add(reason or (row.reason if isinstance(row, BadRow) else ""), row.file, [row.line])
