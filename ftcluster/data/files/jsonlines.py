"""One JSON object per line: cuts a stream into blocks of whole lines, and parses a block's lines.

stream -> blocks (in the parent: finds line ends, nothing more) -> rows (in a worker: parses)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from ftcluster.data.files.source import BLOCK_BYTES, LARGEST_ROW, TOO_LARGE, BadRow, Block, Row, to_row
from ftcluster.data.files.streams import BOM, likely_encoding

_SHOWN = 40  # characters of a key
_SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")  # escapes that can bring in a NUL or half of a pair


class _TwiceError(ValueError):
    """An object names a key twice; the value before would be lost."""


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1)[:_SHOWN])
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_to_object)


def line_blocks(file: str, stream: BinaryIO) -> Iterator[Block]:
    """Blocks of whole lines; a line too long to hold is a BadRow of its own."""
    line, rest = 1, b""
    first = True
    while chunk := stream.read(BLOCK_BYTES):
        data = rest + (chunk.removeprefix(BOM) if first else chunk)
        first = False
        end = data.rfind(b"\n") + 1
        if end:
            yield Block(file, line, data[:end])
            line += data.count(b"\n", 0, end)
        rest = data[end:]
        if len(rest) > LARGEST_ROW:
            yield Block(file, line, rows=(BadRow(file, line, TOO_LARGE),))
            rest, ended = _behind_line(stream)
            line += ended
    if rest:
        yield Block(file, line, rest)


def _behind_line(stream: BinaryIO) -> tuple[bytes, bool]:
    """What was read behind the next line end, and whether there is one."""
    while chunk := stream.read(BLOCK_BYTES):
        if (at := chunk.find(b"\n")) >= 0:
            return chunk[at + 1 :], True
    return b"", False


def parse_lines(block: Block) -> Iterator[Row | BadRow]:
    """The rows of a block of lines; blank lines are none."""
    numbers = iter(block.numbers)
    for number, line in enumerate(block.lines.split(b"\n"), block.line):
        if line and not line.isspace():
            yield parse_line(line, block.file, next(numbers) if block.numbers else number)


def parse_line(line: bytes, file: str, number: int) -> Row | BadRow:
    """The row that is on a line."""
    if len(line) > LARGEST_ROW and len(line.rstrip(b"\r")) > LARGEST_ROW:
        return BadRow(file, number, TOO_LARGE)
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError:
        encoding = likely_encoding(line)
        if encoding == "UTF-8":
            return BadRow(file, number, "not UTF-8 text", "some of it is damaged")
        return BadRow(file, number, f"not UTF-8 but perhaps {encoding}: iconv -f {encoding} -t UTF-8 converts the file")
    except json.JSONDecodeError as error:
        if b"\x00" in line:
            return BadRow(file, number, "has a NUL character")
        return BadRow(file, number, "not JSON", f"{error.msg} at column {error.colno}")
    except _TwiceError as error:
        return BadRow(file, number, f'names "{error}" twice')
    except (ValueError, RecursionError):  # a number of thousands of digits, lists nested without end
        return BadRow(file, number, "not JSON", "a huge number or endless nesting")
    return to_row(value, file, number, look_for_unusable=b"\\u" in line and _SUSPICIOUS.search(line) is not None)
