"""Reads rows from .json and .jsonl files and keeps where each came from.

Owns decoding, line numbers and what makes a row unreadable. Does not know what columns mean (``formats``).
A row that cannot be read becomes a ``BadRow`` and reading goes on; a file that cannot be read is a ``DataError``.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ftcluster.errors import DataError

SUFFIXES = (".json", ".jsonl", ".ndjson")
LARGEST_ROW = 10_000_000  # bytes of a line, characters of an array element
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Row:
    """One object of a file; ``line`` counts from 1 and is where the object starts."""

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


def read_rows(path: str | Path) -> Iterator[Row | BadRow]:
    """Rows of a file in their order.

    Raises:
        DataError: no such file, a kind of file we do not read, not UTF-8 throughout, or no row in it.
    """
    file = Path(path)
    check_readable(file)
    with file.open("rb") as handle:
        head = handle.read(4096)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("is UTF-16 text", where=str(file), remedy="save it as UTF-8")
    if file.suffix.lower() == ".json" and not _starts_with_a_row(file, head):
        return _refuse_empty(file, _read_array(file))
    return _refuse_empty(file, _read_lines(file))


def check_readable(file: Path) -> None:
    """Raises a DataError unless the file is there, of a known kind and may be read."""
    if file.suffix.lower() not in SUFFIXES:
        raise DataError(
            f'unknown kind of data file "{file.suffix}"', where=str(file), remedy=f"known kinds: {', '.join(SUFFIXES)}"
        )
    if file.is_dir():
        raise DataError("is a folder, not a data file", where=str(file), remedy="name the files in it")
    if not file.exists():
        raise DataError("no such data file", where=str(file), remedy=_suggest(file))
    try:
        file.open("rb").close()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(file), remedy="check its permissions") from error


def _suggest(file: Path) -> str:
    if not file.parent.is_dir():
        return f"the folder {file.parent} does not exist either; a relative path starts at {Path.cwd()}"
    names = sorted(other.name for other in file.parent.iterdir() if other.suffix.lower() in SUFFIXES)
    near = difflib.get_close_matches(file.name, names, n=3) or names[:5]
    return f"in that folder: {', '.join(near)}" if near else f"{file.parent} has no {', '.join(SUFFIXES)} file"


def _refuse_empty(file: Path, rows: Iterator[Row | BadRow]) -> Iterator[Row | BadRow]:
    found = False
    for row in rows:
        found = True
        yield row
    if not found:
        raise DataError("has no rows", where=str(file), remedy="give a file with at least one JSON object")


def _starts_with_a_row(file: Path, head: bytes) -> bool:
    """Whether a .json file is JSON Lines under another name, which is common."""
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return False
    with file.open("rb") as handle:
        for _, line in _numbered_lines(handle):
            if line is None or line.strip():
                return line is None or isinstance(_parse(line, str(file), 1), Row)
    return False


def _read_lines(file: Path) -> Iterator[Row | BadRow]:
    with file.open("rb") as handle:
        for number, line in _numbered_lines(handle):
            if line is None:
                yield BadRow(str(file), number, f"larger than {LARGEST_ROW // 1_000_000} MB")
            elif line.strip():
                yield _parse(line, str(file), number)


def _numbered_lines(handle: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Lines without the byte order mark; None for one that is too long to hold."""
    number = 0
    while line := handle.readline(LARGEST_ROW + 2):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        too_long = len(line.rstrip(b"\r\n")) > LARGEST_ROW
        while too_long and not line.endswith(b"\n") and (line := handle.readline(LARGEST_ROW)):
            pass
        yield number, None if too_long else line


def _parse(line: bytes, file: str, number: int) -> Row | BadRow:
    try:
        value = json.loads(line.rstrip().decode("utf-8"))
    except UnicodeDecodeError:
        return BadRow(file, number, "not UTF-8 text")
    except json.JSONDecodeError as error:
        return BadRow(file, number, "not JSON", f"{error.msg} at column {error.colno}")
    except (ValueError, RecursionError):  # a number of thousands of digits, lists nested without end
        return BadRow(file, number, "not JSON", "a huge number or endless nesting")
    return _to_row(value, file, number, may_hide_escapes=b"\\u" in line)


def _to_row(value: Any, file: str, line: int, *, may_hide_escapes: bool) -> Row | BadRow:
    if not isinstance(value, dict):
        return BadRow(file, line, f"not an object but {_kind(value)}")
    if may_hide_escapes and (problem := _unusable_text(value)):
        return BadRow(file, line, problem)
    return Row(value, file, line)


def _kind(value: Any) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "true or false"}.get(type(value), "a number")


def _unusable_text(value: Any) -> str:
    """Why some string in the value cannot be tokenised; only \\u escapes can bring such characters in."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            todo += item
        elif isinstance(item, str):
            if "\x00" in item:
                return "has a NUL character"
            if any("\ud800" <= character <= "\udfff" for character in item):
                return "has half of a surrogate pair, which is no character"
    return ""


def _read_array(file: Path) -> Iterator[Row | BadRow]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = bytes(error.object[: error.start]).count(b"\n") + 1
        raise DataError("is not UTF-8 text", where=f"{file}:{line}", remedy="save it as UTF-8") from error
    at = _skip_space(text, 0)
    if at == len(text):
        return
    if text[at] != "[":
        raise DataError(
            "is neither a list of objects nor one object per line",
            where=str(file),
            remedy='write [{...}, {...}], or one {...} per line, without anything around it such as {"data": ...}',
        )
    yield from _read_elements(text, at + 1, str(file))


def _read_elements(text: str, at: int, file: str) -> Iterator[Row | BadRow]:
    """Elements of an array from just behind its bracket, each with the line it starts on."""
    line, counted = 1, 0
    at = _skip_space(text, at)
    while at < len(text) and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            end = _next_element(text, at)
            yield BadRow(file, line, "not JSON" + _lost(end == len(text)), _broken(error, text, at, line))
            if end == len(text):
                return
            at = end
            continue
        if end - at > LARGEST_ROW:
            yield BadRow(file, line, f"larger than {LARGEST_ROW // 1_000_000} MB")
        else:
            yield _to_row(value, file, line, may_hide_escapes=text.find("\\u", at, end) >= 0)
        at = _skip_space(text, end)
        if text.startswith(",", at):
            at = _skip_space(text, at + 1)
    line += text.count("\n", counted, at)
    if at == len(text):
        yield BadRow(file, line, "the list is cut off here: its closing bracket is missing")
    elif _skip_space(text, at + 1) < len(text):
        yield BadRow(file, line, "the list ends here" + _lost(True))


def _lost(rest: bool) -> str:
    return "; the rest of the file was not read" if rest else ""


def _broken(error: Exception, text: str, at: int, line: int) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} on line {line + text.count(chr(10), at, error.pos)}"
    return "a huge number or endless nesting"


def _next_element(text: str, at: int) -> int:
    """Where reading goes on after a broken element: the next line indented like it; the end if there is none."""
    start = text.rfind("\n", 0, at) + 1
    indent = text[start:at]
    if indent.strip() or text[at] != "{":
        return len(text)
    following = text.find(f"\n{indent}{{", at)
    return len(text) if following < 0 else following + 1 + len(indent)


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
