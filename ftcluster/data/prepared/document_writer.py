"""Writes the documents of one side as an Arrow file, batch by batch; what is in it is told in ``documents``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ftcluster.data.prepared.documents import path_of

_BATCH_TOKENS = 4_000_000  # of a record batch: few enough to hold, many enough that a large file has few batches
_BATCH_DOCUMENTS = 65_536


@dataclass
class Columns:
    """Documents one after the other, and what goes with them; ``questions`` is empty on the training side."""

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    lines: NDArray[np.int64]
    file: int
    questions: tuple[str, ...] = ()


@dataclass
class _Buffer:
    held: list[Columns] = field(default_factory=list)
    tokens: int = 0
    documents: int = 0


class DocumentWriter:
    """Writes one split in batches, so that memory does not grow with the data; use as a context manager."""

    def __init__(self, folder: Path, split: str, files: Sequence[str]) -> None:
        self._has_questions = split != "train"
        self._schema = _schema(files, questions=self._has_questions)
        self._sink = pa.OSFile(str(path_of(folder, split)), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._buffer = _Buffer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                self._writer.close()
        finally:
            self._sink.close()

    def add(self, columns: Columns) -> None:
        """Append documents."""
        buffer = self._buffer
        buffer.held.append(columns)
        buffer.tokens += len(columns.tokens)
        buffer.documents += len(columns.lengths)
        if buffer.tokens >= _BATCH_TOKENS or buffer.documents >= _BATCH_DOCUMENTS:
            self._flush()

    def _flush(self) -> None:
        held, self._buffer = self._buffer.held, _Buffer()
        if held:
            self._writer.write_batch(_batch(held, self._schema))


def write_numbers(path: Path, numbers: NDArray[np.int64]) -> None:
    """Write one column of numbers."""
    schema = pa.schema([("number", pa.int64())])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([_numbers(numbers)], schema=schema))


def _batch(held: Sequence[Columns], schema: pa.Schema) -> pa.RecordBatch:
    lengths = np.concatenate([c.lengths for c in held])
    trained = np.concatenate([c.trained for c in held])
    files = np.repeat(np.array([c.file for c in held], np.int32), [len(c.lengths) for c in held])
    tokens = _numbers(np.concatenate([c.tokens for c in held]))
    bits = _array(pa.bool_(), len(trained), np.packbits(trained, bitorder="little"))
    offsets = _numbers(_offsets(lengths))
    arrays = [
        pa.LargeListArray.from_arrays(offsets, tokens),
        pa.LargeListArray.from_arrays(offsets, bits),
        _numbers(files),
        _numbers(np.concatenate([c.lines for c in held])),
    ]
    if "question" in schema.names:
        arrays.append(_texts([question.encode() for c in held for question in c.questions]))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


# Arrays are made of buffers: pa.array() would import pandas, which takes longer than a small data set.
def _array(kind: pa.DataType, length: int, *buffers: Any) -> pa.Array:
    return pa.Array.from_buffers(kind, length, [None, *(pa.py_buffer(buffer) for buffer in buffers)])


def _numbers(numbers: NDArray[Any]) -> pa.Array:
    return _array(pa.from_numpy_dtype(numbers.dtype), len(numbers), numbers)


def _texts(texts: Sequence[bytes]) -> pa.Array:
    lengths = np.array([len(text) for text in texts], np.int64)
    return _array(pa.large_string(), len(texts), _offsets(lengths), b"".join(texts))


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _schema(files: Sequence[str], *, questions: bool) -> pa.Schema:
    columns = [
        ("tokens", pa.large_list(pa.int32())),
        ("trained", pa.large_list(pa.bool_())),
        ("file", pa.int32()),
        ("line", pa.int64()),
        *([("question", pa.large_string())] if questions else []),
    ]
    return pa.schema(columns, metadata={"files": json.dumps(list(files))})
