"""A JSON list of objects, cut into its elements by a window that slides over the text.

Memory: a few MB, whatever the size of the file; an element that is broken or huge is looked at for 20 MB. An element's
line ends are white space (JSON allows none inside strings), so each element becomes one line of a block, which is then
parsed like any other line, in a worker.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ftcluster.data.files.source import BLOCK_BYTES, LARGEST_ROW, TOO_LARGE, BadRow, Block, to_row
from ftcluster.data.files.streams import not_utf8
from ftcluster.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_PATIENCE = 2 * LARGEST_ROW  # characters that are looked at before an element counts as broken
_SURE = 16  # characters: an error this far from the end of the window is not one of cutting it there
_KEPT = 256  # characters before the current place, where the line's indentation is
_AROUND = 1000  # bytes on both sides of a wrong one that tell what it is
_READ_BYTES = 2**20


class _Window:
    """The part of the text that is being looked at; ``line`` is that of ``at``."""

    def __init__(self, file: str, stream: BinaryIO) -> None:
        self._file, self._stream = file, stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.text, self.at, self.line, self.ended = "", 0, 1, False

    def grow(self) -> bool:
        """Read on, at least as much as is left; False at the end of the file."""
        data = self._stream.read(max(_READ_BYTES, len(self.text) - self.at))
        self.ended = not data
        try:
            more = self._decode(data, self.ended)
        except UnicodeDecodeError as error:
            before = self.text.count("\n", self.at) + error.object[: error.start].count(b"\n")
            around = error.object[max(0, error.start - _AROUND) : error.start + _AROUND]
            raise not_utf8(Path(self._file), self.line + before, around) from error
        if self.ended:
            return False
        kept = max(0, self.at - _KEPT)
        self.text, self.at = self.text[kept:] + more, self.at - kept
        return True

    def advance(self, to: int) -> None:
        """Go on to a place in the window."""
        if to > self.at:
            self.line += self.text.count("\n", self.at, to)
            self.at = to

    def peek(self) -> str:
        """The next character that is no white space, or nothing at the end."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self.advance(match.end() if match else self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow():
                return ""

    def skip_to_next_element(self) -> bool:
        """Go on to the next line that is indented like this one's; False, and to the end, if there is none."""
        start = self.text.rfind("\n", 0, self.at) + 1
        indent = self.text[start : self.at]
        if indent.strip() or self.peek() != "{":
            return False
        wanted = f"\n{indent}{{"
        while (following := self.text.find(wanted, self.at)) < 0:
            self.advance(max(self.at, len(self.text) - len(wanted)))
            if not self.grow():
                return False
        self.advance(following + len(wanted) - 1)
        return True


def element_blocks(file: str, stream: BinaryIO) -> Iterator[Block]:
    """The elements of a list in blocks, each with the line it starts on.

    Raises:
        DataError: the text is no list, or not UTF-8.
    """
    window = _Window(file, stream)
    held: list[str] = []
    numbers: list[int] = []
    size = 0
    for found in _elements(file, window):
        if isinstance(found, str):
            held.append(found)
            numbers.append(window.line)
            size += len(found)
        if held and (size >= BLOCK_BYTES or isinstance(found, BadRow)):
            yield _block(file, held, numbers)
            held, numbers, size = [], [], 0
        if isinstance(found, BadRow):
            yield Block(file, found.line, rows=(found,))
    if held:
        yield _block(file, held, numbers)


def _block(file: str, elements: list[str], numbers: list[int]) -> Block:
    return Block(file, numbers[0], "\n".join(elements).encode(), tuple(numbers))


def _elements(file: str, window: _Window) -> Iterator[str | BadRow]:
    """Text of an element, while the window stands at its start, or why there is none."""
    opening = window.peek()
    if not opening:
        return
    if opening != "[":
        raise DataError(
            "is neither a list of objects nor one object per line",
            where=file,
            remedy='write [{...}, {...}], or one {...} per line, without anything around it such as {"data": ...}',
        )
    window.advance(window.at + 1)
    while (following := window.peek()) not in ("]", ""):
        line = window.line
        try:
            value, end = _decode(window)
        except (ValueError, RecursionError) as error:
            problem = _describe(error, window)
            if not window.skip_to_next_element():
                if problem.startswith("Unterminated"):
                    raise _lost(file, line, "is cut off, or lacks a quote, in the row that starts here") from None
                raise _lost(file, line, f"is not JSON from here on ({problem})") from None
            yield BadRow(file, line, "not JSON", problem)
            continue
        if end - window.at > LARGEST_ROW:
            yield BadRow(file, line, TOO_LARGE)
        else:
            row = to_row(value, file, line, look_for_unusable=False)
            yield row if isinstance(row, BadRow) else _on_one_line(window.text[window.at : end])
        window.advance(end)
        if window.peek() == ",":
            window.advance(window.at + 1)
    if not following:
        raise _lost(file, window.line, "is cut off here: the closing bracket of its list is missing")
    end_of_list = window.line
    window.advance(window.at + 1)
    if window.peek():
        raise _lost(file, end_of_list, "has more behind the end of its list")


def _lost(file: str, line: int, what: str) -> DataError:
    """Nobody knows how many rows would be left out, so none is read."""
    return DataError(
        what,
        where=f"{file}:{line}",
        remedy="repair it or export it again; in a .jsonl file, one object per line, a broken row costs only itself",
    )


def _on_one_line(element: str) -> str:
    return element.replace("\n", " ").replace("\r", " ")


def _decode(window: _Window) -> tuple[object, int]:
    """The value at the window's place and its end; grows the window until it holds the value."""
    while True:
        try:
            value, end = _DECODER.raw_decode(window.text, window.at)
            if end < len(window.text) or not window.grow():  # a number may go on
                return value, end
        except (ValueError, RecursionError) as error:
            if _is_sure(error, window) or not window.grow():
                raise


def _is_sure(error: Exception, window: _Window) -> bool:
    if window.ended or len(window.text) - window.at > _PATIENCE:
        return True
    if not isinstance(error, json.JSONDecodeError):
        return True
    return not error.msg.startswith("Unterminated") and error.pos < len(window.text) - _SURE


def _describe(error: Exception, window: _Window) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} on line {window.line + window.text.count(chr(10), window.at, error.pos)}"
    return "a huge number or endless nesting"
