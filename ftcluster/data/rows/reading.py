"""Which files are read, as which format, and the work on each block of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ftcluster.data.files.blocks import blocks, rows
from ftcluster.data.files.source import Block, Row
from ftcluster.data.rows.formats import detect
from ftcluster.data.rows.split import Split

_LOOKED_AT = 50  # rows that show a file's format
ALL_KEYS = 2**64  # above every key


@dataclass(frozen=True)
class DataFile:
    """One file to read; ``number`` is its place among all files."""

    number: int
    name: str
    side: Split | None = None  # None: every row on the side its content says
    source: int = 0
    source_name: str = ""
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """A block of a file and what is to be done with it: what travels to a worker."""

    file: DataFile
    block: Block
    format: str  # "" as long as no row of the file could be read
    below: int = ALL_KEYS  # training rows with this key or a larger one are not wanted
    cutoff: int = ALL_KEYS  # see ``audit.examine``
    only_keys: bool = False


def works(file: DataFile) -> Iterator[Work]:
    """The blocks of a file in their order; "auto" detects the format from the first rows that can be read.

    Raises:
        DataError: the file cannot be read, or its format is unknown.
    """
    format = "" if file.format == "auto" else file.format
    for block in blocks(Path(file.name)):
        if not format and (first := list(islice((row for row in rows(block) if isinstance(row, Row)), _LOOKED_AT))):
            format = detect(first, file.columns)
        yield Work(file, block, format)
