"""Tokenised documents on disk: one Arrow file per side of the split, opened memory-mapped.

    {split}.arrow   record batches of   tokens    large_list<int32>
                                        trained   large_list<bool>   whether the loss is on this token (as a target)
                                        file      int32              number in the schema's metadata "files"
                                        line      int64
                                        question  large_string       held-out sides only, JSON; see ``folder``

Owns reading them (``document_writer`` writes). What makes a token trained is ``template``'s, when a folder is complete
is ``folder``'s.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class Document:
    """Tokens of one example and whether each is trained."""

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]


@dataclass(frozen=True)
class _Part:
    """Documents of one record batch: i is tokens[offsets[i]:offsets[i+1]], its flags the same range of bits."""

    tokens: NDArray[np.int32]
    bits: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @property
    def trained_tokens(self) -> int:
        whole = len(self.tokens) >> 3  # bytes; the bits behind the last token may be anything
        rest = np.unpackbits(self.bits[whole:], bitorder="little")[: len(self.tokens) & 7]
        return int(np.bitwise_count(self.bits[:whole]).sum(dtype=np.int64)) + int(rest.sum())

    def get(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        bits = np.unpackbits(self.bits[start >> 3 : (end + 7) >> 3], bitorder="little")
        return self.tokens[start:end], bits[start & 7 :][: end - start].view(np.bool_)


class Documents:
    """The documents of one split."""

    def __init__(self, parts: Sequence[_Part], batches: Sequence[pa.RecordBatch] = ()) -> None:
        self._parts = parts
        self._batches = batches
        self.lengths: NDArray[np.int64] = np.concatenate(
            [np.empty(0, np.int64), *(np.diff(part.offsets) for part in parts)]
        )
        counts = [len(part.offsets) - 1 for part in parts]
        self._starts: list[int] = np.cumsum([0, *counts]).tolist()

    @classmethod
    def of(cls, documents: Sequence[Document]) -> Documents:
        """Documents held in memory."""
        lengths = [len(document.tokens) for document in documents]
        tokens = np.concatenate([np.empty(0, np.int32), *(document.tokens for document in documents)])
        trained = np.concatenate([np.empty(0, np.bool_), *(document.trained for document in documents)])
        bits = np.packbits(trained, bitorder="little")
        return cls([_Part(tokens, bits, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))])

    @classmethod
    def open(cls, folder: Path, split: str) -> Documents:
        """Documents that a ``DocumentWriter`` wrote; tokens are not read until they are asked for.

        Raises:
            OSError, ValueError: the file is not there, or not whole.
        """
        with pa.memory_map(str(path_of(folder, split))) as source:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate()
        return cls([_view(batch) for batch in batches], batches)

    def __len__(self) -> int:
        return len(self.lengths)

    def get(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Tokens, as a view, and trained flags of one document."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        part = bisect_right(self._starts, index) - 1
        return self._parts[part].get(index - self._starts[part])

    def places(self) -> list[str]:
        """Where each document came from, as file:line; empty for documents held in memory."""
        found: list[str] = []
        for batch in self._batches:
            files = _files(batch.schema)
            numbers, lines = batch.column("file").to_pylist(), batch.column("line").to_pylist()
            found += [f"{files[number]}:{line}" for number, line in zip(numbers, lines, strict=True)]
        return found

    def questions(self) -> Iterator[tuple[dict[str, Any], str, int]]:
        """The question of each held-out document, its file and line."""
        for batch in self._batches:
            files = _files(batch.schema)
            columns = (batch.column(name).to_pylist() for name in ("question", "file", "line"))
            for question, number, line in zip(*columns, strict=True):
                yield json.loads(question), files[number], line

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.lengths.sum())

    @property
    def trained_tokens(self) -> int:
        """Tokens the loss is on."""
        return sum(part.trained_tokens for part in self._parts)


def read_numbers(path: Path) -> NDArray[np.int64]:
    """Numbers that ``write_numbers`` wrote, memory-mapped.

    Raises:
        OSError, ValueError: the file is not there, or not whole.
    """
    with pa.memory_map(str(path)) as source:
        return _view_of(pa.ipc.open_file(source).get_batch(0).column(0), np.int64)


def _files(schema: pa.Schema) -> list[str]:
    names: list[str] = json.loads(schema.metadata[b"files"])
    return names


def _view(batch: pa.RecordBatch) -> _Part:
    tokens, trained = batch.column("tokens"), batch.column("trained")
    bits = trained.values.buffers()[1]
    flags = np.frombuffer(bits, np.uint8) if len(trained.values) else np.empty(0, np.uint8)
    return _Part(_view_of(tokens.values, np.int32), flags, _view_of(tokens.offsets, np.int64))


def _view_of(numbers: pa.Array, dtype: Any) -> NDArray[Any]:
    # Not to_numpy(), which imports pandas as well.
    if not len(numbers):
        return np.empty(0, dtype)
    return np.frombuffer(numbers.buffers()[1], dtype)[numbers.offset : numbers.offset + len(numbers)]


def path_of(folder: Path, split: str) -> Path:
    """The file of one side."""
    return folder / f"{split}.arrow"
