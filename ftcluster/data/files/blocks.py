"""Reads any data file: cuts it into blocks, in order and with bounded memory, and blocks into rows.

    blocks(file)   one process: finds where rows begin and end; tables are read here
    rows(block)    any process: parses JSON, the costly part

Owns which kinds of files there are and that a file is what its name says. Each kind is read by its own module.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ftcluster.config.locations import COMPRESSED_IN_THEMSELVES, KINDS, kind_of
from ftcluster.data.files.delimited import delimited_rows
from ftcluster.data.files.jsonarray import element_blocks
from ftcluster.data.files.jsonlines import line_blocks, parse_line, parse_lines
from ftcluster.data.files.parquet import parquet_rows, row_count
from ftcluster.data.files.sheets import sheet_rows
from ftcluster.data.files.source import BadRow, Block, Row, in_blocks
from ftcluster.data.files.streams import BOM, Unchanged, numbered_lines, open_stream, refuse_other_kinds
from ftcluster.errors import DataError

_HEAD = 4096


def blocks(file: Path) -> Iterator[Block]:
    """The rows of a file in blocks, in their order.

    Raises:
        DataError: no such file, a kind of file we do not read or not that of its name, not UTF-8 throughout, no row in
            it, or written to while it is read.
    """
    check_readable(file)
    if kind_of(file) not in COMPRESSED_IN_THEMSELVES:
        refuse_other_kinds(file)
    return _checked(file)


def rows(block: Block) -> Iterator[Row | BadRow]:
    """The rows of a block."""
    return parse_lines(block) if block.lines else iter(block.rows)


def read_rows(path: str | Path) -> Iterator[Row | BadRow]:
    """The rows of a file in their order.

    Raises:
        DataError: as ``blocks``.
    """
    return (row for block in blocks(Path(path)) for row in rows(block))


def check_readable(file: Path) -> None:
    """Raises a DataError unless the file is there, of a known kind and may be read."""
    if file.is_dir():
        raise DataError("is a folder, not a data file", where=str(file), remedy="name the files in it")
    if not kind_of(file):
        raise DataError(
            f'unknown kind of data file "{file.suffix}"',
            where=str(file),
            remedy=f"known kinds: {', '.join(KINDS)}; those that are text may end in .gz or .zst",
        )
    if not file.exists():
        raise DataError("no such data file", where=str(file), remedy=_suggest(file))
    try:
        file.open("rb").close()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(file), remedy="check its permissions") from error


def _suggest(file: Path) -> str:
    if not file.parent.is_dir():
        return f"the folder {file.parent} does not exist either; a relative path starts at {Path.cwd()}"
    names = sorted(other.name for other in file.parent.iterdir() if kind_of(other))
    near = difflib.get_close_matches(file.name, names, n=3) or names[:5]
    return f"in that folder: {', '.join(near)}" if near else f"{file.parent} has no data file"


def _checked(file: Path) -> Iterator[Block]:
    unchanged = Unchanged(file)
    found = False
    try:
        for block in _cut(file):
            if block.rows or not block.lines.isspace():
                found = True
                yield block
    except DataError:
        unchanged.check()  # a file that is being written looks damaged
        raise
    unchanged.check()
    if not found:
        raise DataError("has no rows", where=str(file), remedy="give a file with at least one row")


def _cut(file: Path) -> Iterator[Block]:
    kind, name = kind_of(file), str(file)
    if kind == ".xlsx":
        yield from in_blocks(name, sheet_rows(file))
    elif kind == ".parquet":
        count = row_count(file)
        for block in in_blocks(name, parquet_rows(file)):
            yield replace(block, share=(block.line + len(block.rows) - 1) / count)
    else:
        with open_stream(file) as (stream, share):
            for block in _text_blocks(file, kind, stream):
                yield replace(block, share=share())


def _text_blocks(file: Path, kind: str, stream: BinaryIO) -> Iterator[Block]:
    if kind in (".csv", ".tsv"):
        return in_blocks(str(file), delimited_rows(str(file), stream))
    return (element_blocks if _holds_list(file, kind) else line_blocks)(str(file), stream)


def _holds_list(file: Path, kind: str) -> bool:
    """Whether to read a list rather than one object per line: each is found under the other's name."""
    with open_stream(file) as (stream, _):
        opening = _first_character(stream)
    with open_stream(file) as (stream, _):
        filled = (line for _, line in numbered_lines(stream) if line is None or line.strip())
        first = next(filled, b"")
        if opening == b"[":
            # A line that is a list of its own is a bad row of .jsonl, if there are others.
            return kind == ".json" or first is None or not (_is_whole(first) and next(filled, b"") != b"")
        if opening == b"{":
            return kind == ".json" and first is not None and not isinstance(parse_line(first, str(file), 1), Row)
    return kind == ".json"


def _first_character(stream: BinaryIO) -> bytes:
    """The first that is no white space and no mark of the encoding."""
    start = stream.read(_HEAD).removeprefix(BOM).lstrip()
    while not start and (more := stream.read(_HEAD)):
        start = more.lstrip()
    return start[:1]


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
