"""A cleaned copy of data files, and what was done to each row.

Repaired: text that was decoded with a wrong encoding (as ftfy does it, line by line), control characters. Left out:
rows that cannot be used, answers that say nothing, exact copies of an earlier row. Everything else stays as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcluster.data.audit.texts import CONTROL_CHARACTERS, is_damaged, says_nothing
from ftcluster.data.curation.convert import row_maker
from ftcluster.data.files.source import BadRow
from ftcluster.data.files.writing import new_file
from ftcluster.data.prepared.report import Dropped, Reasons
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.examples import Progress, Read, note, read_files
from ftcluster.data.rows.formats import to_example
from ftcluster.data.rows.reading import DataFile
from ftcluster.data.rows.split import key

Tell = Callable[[str, str], None]  # file:line, what was done


@dataclass(frozen=True)
class Cleaned:
    """Rows of the copy; ``repaired`` and ``removed`` count rows by what was done."""

    file: Path
    rows: int
    of: int
    repaired: tuple[Dropped, ...]
    removed: tuple[Dropped, ...]


def clean(
    files: Sequence[DataFile],
    out: Path,
    *,
    force: bool = False,
    tell: Tell | None = None,
    progress: Progress | None = None,
) -> Cleaned:
    """Write the copy: rows as they stand, or as messages where the files differ in format. Memory: 100 bytes a row.

    Raises:
        DataError: a file that cannot be read.
        UsageError: ``out`` is there and ``force`` is not given.
        StoreError: it cannot be written.
    """
    done, kept, seen = 0, 0, set[bytes]()
    as_written = row_maker(files)
    repaired, removed = Reasons(), Reasons()
    with new_file(out, force=force, read=[file.name for file in files]) as write:
        for read in read_files(files, progress):
            done += 1
            mended, repairs = _mend(read)
            reason = _unwanted(mended.example, seen)
            for counted, what in ((repaired, repairs if not reason else []), (removed, [reason] if reason else [])):
                for each in what:
                    note(counted, mended.example, each)
                    if tell:
                        tell(f"{mended.example.file}:{mended.example.line}", each)
            if not reason:
                write(as_written(mended))
                kept += 1
    return Cleaned(out, kept, done, repaired.counted(), removed.counted())


def mend(text: str) -> tuple[str, list[str]]:
    """The text as it was meant, and what had to be done for that."""
    done: list[str] = []
    whole = CONTROL_CHARACTERS.sub("", text)
    if whole != text:
        done.append("control characters removed")
    if not whole.isascii() and is_damaged(whole):
        from ftfy import fix_encoding

        fixed = "\n".join(fix_encoding(line) if is_damaged(line) else line for line in whole.split("\n"))
        if fixed != whole:
            done.append("encoding repaired")
        whole = fixed
    return whole, done


def _mend(read: Read) -> tuple[Read, list[str]]:
    if read.row is None:
        return read, []
    repairs: list[str] = []
    values = _mend_value(read.row.values, repairs)
    if not repairs:
        return read, []
    row = replace(read.row, values=values)
    return replace(read, row=row, example=to_example(row, read.format, read.file.columns)), list(dict.fromkeys(repairs))


def _mend_value(value: Any, repairs: list[str]) -> Any:
    if isinstance(value, str):
        mended, done = mend(value)
        repairs += done
        return mended
    if isinstance(value, dict):
        return {name: _mend_value(item, repairs) for name, item in value.items()}
    return [_mend_value(item, repairs) for item in value] if isinstance(value, list) else value


def _unwanted(example: Example | BadRow, seen: set[bytes]) -> str:
    """Why a row is left out; else it is remembered."""
    if isinstance(example, BadRow):
        return example.reason
    if says_nothing(example):
        return "its answer says nothing"
    digest = _identity(example)
    if digest in seen:
        return "a copy of an earlier row"
    seen.add(digest)
    return ""


def _identity(example: Example) -> bytes:
    """What an exact copy shares: what is trained, and also the answer that was rejected, and the thumb."""
    rest = [[message.as_chat() for message in example.rejected], example.label]
    return hashlib.sha256(key(example) + json.dumps(rest, sort_keys=True).encode()).digest()[:16]
