"""Parquet files, a batch of rows at a time; lists and structs become Python's lists and dicts.

Arrow gives every struct of a column the fields of all of them, empty where a row had none, so empty fields inside
structs are left out again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftcluster.data.files.source import BLOCK_BYTES, BadRow, Row, to_row
from ftcluster.data.files.streams import FREE_EXPANSION, LARGEST_EXPANSION
from ftcluster.errors import DataError

_LARGEST_BATCH = 100  # rows; a text that a file stores once and repeats is whole in each of them


def parquet_rows(file: Path) -> Iterator[Row | BadRow]:
    """The rows of a file; a row's line is its number.

    Raises:
        DataError: no Parquet file, a damaged one, or one that expands without measure.
    """
    import pyarrow

    number = expanded = 0
    largest = max(FREE_EXPANSION, LARGEST_EXPANSION * file.stat().st_size)
    with _opened(file) as table:
        fitting = BLOCK_BYTES * max(1, table.metadata.num_rows) // max(1, _size(table.metadata))
        for batch in table.iter_batches(max(1, min(_LARGEST_BATCH, fitting))):
            expanded += _expanded(batch)
            if expanded > largest:
                raise DataError(
                    f"expands to more than {LARGEST_EXPANSION} times its size, as no text does",
                    where=str(file),
                    remedy="look at what it holds; if it is all right, save its rows as .jsonl",
                )
            nested = [field.name for field in batch.schema if pyarrow.types.is_nested(field.type)]
            for index, values in enumerate(_values(batch)):
                yield _row(values, nested, str(file), number + index + 1)
            number += batch.num_rows


def row_count(file: Path) -> int:
    """How many rows the file says it has.

    Raises:
        DataError: as ``parquet_rows``.
    """
    with _opened(file) as table:
        return int(table.metadata.num_rows)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as table:
            yield table
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"is damaged or no Parquet file: {reason}", where=str(file), remedy="copy or download it again"
        ) from error


def _expanded(batch: Any) -> int:
    """Bytes of a batch when each text that is stored once stands in every row that has it."""
    whole = [getattr(column, "dictionary_decode", lambda same=column: same)() for column in batch.columns]
    return sum(int(column.nbytes) for column in whole)


def _size(metadata: Any) -> int:
    """Bytes of all columns before compression."""
    return sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))


def _values(batch: Any) -> list[dict[str, Any] | None]:
    """The rows as dicts; None for one whose text is no UTF-8, which Arrow does not check."""
    try:
        rows: list[dict[str, Any] | None] = batch.to_pylist()
    except UnicodeDecodeError:
        return [_one(batch, index) for index in range(batch.num_rows)]
    return rows


def _one(batch: Any, index: int) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = batch.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError:
        return None
    return values


def _row(values: dict[str, Any] | None, nested: list[str], file: str, number: int) -> Row | BadRow:
    if values is None:
        return BadRow(file, number, "not UTF-8 text")
    for name in nested:
        values[name] = _without_empty(values[name])
    return to_row(values, file, number)


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_empty(item) for name, item in value.items() if item is not None}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value
