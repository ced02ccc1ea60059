"""The bytes of a text file, plain or compressed, read with bounded memory.

Owns decompression and its limit, lines of bounded length, and telling files apart that are not what their names say:
another encoding, a compressed file, a table.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from ftcluster.config.locations import COMPRESSED
from ftcluster.data.files.source import LARGEST_ROW
from ftcluster.errors import DataError

BOM = b"\xef\xbb\xbf"
FREE_EXPANSION = 256 * 2**20  # bytes; below it no ratio is suspicious
LARGEST_EXPANSION = 200  # text shrinks 3 to 20 times
_HEAD = 4096
_READ_BYTES = 2**18

# First bytes of other kinds of files -> (what it is, how its name should end)
_OTHERS = {
    b"\x1f\x8b": ("a gzip file", ".gz"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", ".zst"),
    b"PK\x03\x04": ("a zip archive or an Excel file", ".xlsx, or unpack it"),
    b"PAR1": ("a Parquet file", ".parquet"),
    b"\xd0\xcf\x11\xe0": ("an old Excel file", ".xls; save it as .xlsx"),
}


@contextmanager
def open_stream(file: Path) -> Iterator[tuple[BinaryIO, Callable[[], float]]]:
    """The text's bytes, decompressed where the name says so, and a function that tells the share read so far.

    Raises:
        DataError: while reading, the compressed file is damaged or expands beyond all measure.
    """
    with file.open("rb", buffering=_READ_BYTES) as raw:
        size = max(1, file.stat().st_size)
        yield _decompressed(file, raw), lambda: min(1.0, raw.tell() / size)


def _decompressed(file: Path, raw: BinaryIO) -> BinaryIO:
    suffix = file.suffix.lower()
    if suffix not in COMPRESSED:
        return raw
    if suffix == ".gz":
        inner = cast("BinaryIO", gzip.GzipFile(fileobj=raw))
    else:
        import pyarrow

        inner = cast("BinaryIO", pyarrow.CompressedInputStream(raw, "zstd"))
    return io.BufferedReader(_Expanding(file, inner), _READ_BYTES)


class _Expanding(io.RawIOBase):
    """What comes out of a decompressor, counted."""

    def __init__(self, file: Path, inner: BinaryIO) -> None:
        self._file, self._inner = file, inner
        self._size, self._read = file.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._inner.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"is damaged or cut off: {error}", where=str(self._file), remedy="copy or download it again"
            ) from error
        buffer[: len(data)] = data
        self._read += len(data)
        if self._read > max(FREE_EXPANSION, LARGEST_EXPANSION * self._size):
            raise DataError(
                f"expands to more than {LARGEST_EXPANSION} times its {self._size} bytes, as no text does",
                where=str(self._file),
                remedy="look at what it holds; if it is all right, decompress it and name the result",
            )
        return len(data)


def refuse_other_kinds(file: Path) -> None:
    """Raises a DataError where the first bytes are not those of UTF-8 text."""
    with open_stream(file) as (stream, _):
        head = stream.read(_HEAD)
    for start, (kind, suffix) in _OTHERS.items():
        if head.startswith(start):
            raise DataError(f"is not text but {kind}", where=str(file), remedy=f"end its name in {suffix}")
    if encoding := _wide_encoding(head):
        raise DataError(f"is {encoding} text", where=str(file), remedy=save_as_utf8(file, encoding))


def _wide_encoding(head: bytes) -> str:
    if head[:4] in (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff"):
        return "UTF-32"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    # Without a mark: characters of ASCII are half NUL bytes, all of them at even or all at odd places.
    for first, name in ((0, "UTF-16BE"), (1, "UTF-16LE")):
        zeros = head[first : first + 64 : 2]
        if len(zeros) >= 2 and zeros.count(0) > len(zeros) * 0.6 and 0 not in head[1 - first : 65 - first : 2]:
            return name
    return ""


def save_as_utf8(file: Path, encoding: str) -> str:
    """How to convert a file from an encoding."""
    stem = Path(file.stem).stem if file.suffix.lower() in COMPRESSED else file.stem
    kind = Path(file.stem).suffix if file.suffix.lower() in COMPRESSED else file.suffix
    return f"save it as UTF-8, for example: iconv -f {encoding} -t UTF-8 {file.name} > {stem}.utf8{kind}"


def likely_encoding(text: bytes) -> str:
    """The name of the encoding that bytes which are not UTF-8 throughout probably have."""
    high = re.sub(rb"[\x00-\x7f]", b"", text)
    if 2 * len(high.decode("utf-8", "ignore").encode()) > len(high):
        return "UTF-8"  # but for some damage
    paired = b"".join(re.findall(rb"(?:[\xa1-\xf7][\xa1-\xfe])+", text))
    if len(high) >= 2 and len(paired) == len(high):
        return "GB18030"
    return "WINDOWS-1252"


def not_utf8(file: Path, line: int, text: bytes) -> DataError:
    """The error for a file whose encoding is wrong, from a line of it."""
    encoding = likely_encoding(text)
    said = "damaged UTF-8" if encoding == "UTF-8" else encoding
    return DataError(
        f"is not UTF-8 text; it looks like {said}",
        where=f"{file}:{line}",
        remedy="repair that line" if encoding == "UTF-8" else save_as_utf8(file, encoding),
    )


def numbered_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their ends and without the byte order mark; None for one that is too long to hold."""
    number = 0
    while line := stream.readline(LARGEST_ROW + 2):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        too_long = len(line) > LARGEST_ROW and len(line.rstrip(b"\r\n")) > LARGEST_ROW
        while too_long and not line.endswith(b"\n") and (line := stream.readline(LARGEST_ROW)):
            pass
        yield number, None if too_long else line


class Unchanged:
    """Holds a file to what it was: ``check`` raises when it has been written meanwhile."""

    def __init__(self, file: Path) -> None:
        self._file, self._mark = file, _mark(file)

    def check(self) -> None:
        """Raises a DataError if the file is no longer the one that was opened."""
        if _mark(self._file) != self._mark:
            raise DataError(
                "was written to while it was read",
                where=str(self._file),
                remedy="wait until it is complete, or copy it and name the copy",
            )


def _mark(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
