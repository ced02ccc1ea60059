"""Tables as text, .csv and .tsv: a header, then one record per row; every value is text.

A record goes over several lines where it has line ends in quotes. The delimiter is the one that the header shows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ftcluster.data.files.source import LARGEST_ROW, TOO_LARGE, BadRow, Row, to_row
from ftcluster.data.files.streams import not_utf8, numbered_lines
from ftcluster.errors import DataError

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_BROKEN = {
    "unexpected end of data": "a quote is opened here and never closed",
    "expected after": "a quote inside a cell is not doubled",
}


class _Lines:
    """Decoded lines, counted."""

    def __init__(self, file: str, stream: BinaryIO) -> None:
        self.number = 0  # of the line that came last
        self._file = Path(file)
        self._lines = numbered_lines(stream)
        self._again = ""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._again:
            line, self._again = self._again, ""
            return line
        self.number, encoded = next(self._lines)
        if encoded is None:
            raise _broken(self._file, self.number, f"its line is {TOO_LARGE}")
        try:
            return encoded.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(self._file, self.number, encoded) from error

    def first(self) -> str:
        """The first line that is not blank, which comes again; nothing if there is none."""
        self._again = next((line for line in self if line.strip()), "")
        return self._again


def delimited_rows(file: str, stream: BinaryIO) -> Iterator[Row | BadRow]:
    """The rows of a table.

    Raises:
        DataError: no usable header, broken quotes, or not UTF-8.
    """
    csv.field_size_limit(LARGEST_ROW)  # of the process; the default of 128 KB is too small for a text
    lines = _Lines(file, stream)
    header_line = lines.first()
    if not header_line:
        return
    reader = csv.reader(lines, delimiter=_delimiter(file, header_line), strict=True)
    try:
        names = header(file, next(reader))
    except csv.Error as error:
        raise _no_header(Path(file), str(error)) from error
    while True:
        start = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _broken(Path(file), start, str(error)) from error
        if any(cells):
            yield _row(file, start, names, cells)


def _broken(file: Path, line: int, problem: str) -> DataError:
    """Where a cell ends is then anybody's guess, and so is every row behind it."""
    said = next((text for part, text in _BROKEN.items() if part in problem), problem)
    return DataError(
        f"is no whole table: {said}",
        where=f"{file}:{line}",
        remedy="repair that row; a quote inside a cell is written twice, and a cell holds at most 10 MB",
    )


def header(file: str, cells: Sequence[str]) -> list[str]:
    """The names of a table's columns; a column without a name is not read.

    Raises:
        DataError: no name, or one twice.
    """
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    given = [name for name in names if name]
    if not given:
        raise _no_header(Path(file), "its first row is empty")
    if twice := next((name for name in given if given.count(name) > 1), ""):
        raise DataError(f'has two columns "{twice}"', where=file, remedy="rename one, or delete it")
    return names


def _row(file: str, line: int, names: Sequence[str], cells: Sequence[str]) -> Row | BadRow:
    if len(cells) < len(names) or any(cells[len(names) :]):
        detail = f"{len(cells)} instead of {len(names)}"
        return BadRow(file, line, "has another number of cells than the header", detail)
    return to_row({name: cell for name, cell in zip(names, cells, strict=False) if name}, file, line)


def _delimiter(file: str, line: str) -> str:
    """The delimiter that cuts the header into most columns."""
    widths: dict[str, int] = {}
    for delimiter in _DELIMITERS:
        try:
            widths[delimiter] = len(next(csv.reader([line], delimiter=delimiter)))
        except csv.Error as error:
            raise _no_header(Path(file), str(error)) from error
    widest = max(widths.values())
    candidates = [delimiter for delimiter, width in widths.items() if width == widest]
    if widest > 1 and len(candidates) > 1:
        found = " and ".join(_DELIMITERS[delimiter] for delimiter in candidates)
        raise DataError(
            f"its header has as many {found}, so that its columns cannot be told apart",
            where=file,
            remedy="save it with commas, and quote the names that hold one",
        )
    return candidates[0]


def _no_header(file: Path, problem: str) -> DataError:
    return DataError(
        f"its header cannot be read: {problem}",
        where=str(file),
        remedy="write the names of the columns on the first line, as in question,answer",
    )
