"""What is read from data files: rows with the place they start at, and blocks of them that may travel to a worker.

Owns these values and what makes an object unusable as a row. Does not know kinds of files (``blocks``) or what columns
mean (``formats``). A row that cannot be read becomes a ``BadRow`` and reading goes on; a file that cannot be read is a
``DataError``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

LARGEST_ROW = 10_000_000  # bytes of a line, characters of an element of a list or of a cell
TOO_LARGE = f"larger than {LARGEST_ROW // 1_000_000} MB"
BLOCK_BYTES = 2**20
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_BLOCK_ROWS = 2000  # of a table, where rows are small


@dataclass(frozen=True)
class Row:
    """One object of a file; ``line`` counts from 1 and is where the object starts: a row's number in a table."""

    values: dict[str, Any]
    file: str
    line: int


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why: reports count rows by ``reason``, ``detail`` is of this row alone."""

    file: str
    line: int
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Block:
    """Some rows of a file that follow each other: JSON lines still to be parsed, or rows.

    ``numbers`` are where the objects on the lines start; empty: ``line`` and those that follow it. ``share`` of the
    file has been read at the end of the block, about; 0: unknown.
    """

    file: str
    line: int
    lines: bytes = b""
    numbers: tuple[int, ...] = ()
    rows: tuple[Row | BadRow, ...] = ()
    share: float = 0.0


def to_row(values: Any, file: str, line: int, *, look_for_unusable: bool = True) -> Row | BadRow:
    """The row that a value read at this place is."""
    if not isinstance(values, dict):
        return BadRow(file, line, f"not an object but {_kind(values)}")
    if look_for_unusable and (problem := _unusable_text(values)):
        return BadRow(file, line, problem)
    return Row(values, file, line)


def _kind(value: Any) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "true or false"}.get(type(value), "a number")


def _unusable_text(value: Any) -> str:
    """Why some string in the value cannot be tokenised."""
    todo = [value]
    for item in todo:  # grows on the way
        if isinstance(item, str):
            if "\x00" in item:
                return "has a NUL character"
            if not item.isascii() and _HALF_PAIR.search(item):
                return "has half of a surrogate pair, which is no character"
        elif isinstance(item, dict):
            todo += item
            todo += item.values()
        elif isinstance(item, list):
            todo += item
    return ""


def in_blocks(file: str, rows: Iterable[Row | BadRow]) -> Iterator[Block]:
    """Rows that are there already, in blocks of about BLOCK_BYTES characters."""
    held: list[Row | BadRow] = []
    size = 0
    for row in rows:
        held.append(row)
        if isinstance(row, Row):
            size += _size(row.values)
        if size >= BLOCK_BYTES or len(held) >= _BLOCK_ROWS:
            yield Block(file, held[0].line, rows=tuple(held))
            held, size = [], 0
    if held:
        yield Block(file, held[0].line, rows=tuple(held))


def _size(value: Any) -> int:
    """Roughly the characters of a value, of everything inside it too."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return 64 + sum(len(key) + _size(inner) for key, inner in value.items())
    return 64 + sum(map(_size, value)) if isinstance(value, list) else 64
