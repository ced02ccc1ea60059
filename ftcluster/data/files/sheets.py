"""Excel workbooks (.xlsx): the one visible sheet that has rows, with a header row.

Numbers and dates become text, as they would in a .csv. Formulas give the value that Excel has stored. Cells that were
merged are empty but for the first, so their rows are named as incomplete rather than filled by guessing.
"""

from __future__ import annotations

import datetime
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftcluster.data.files.delimited import header
from ftcluster.data.files.source import BadRow, Row, to_row
from ftcluster.data.files.streams import FREE_EXPANSION, LARGEST_EXPANSION
from ftcluster.errors import DataError


class _UnusableCellError(Exception):
    """A cell whose content is no value: the reason, and its place."""


def sheet_rows(file: Path) -> Iterator[Row | BadRow]:
    """The rows of the sheet; a row's line is its number in Excel.

    Raises:
        DataError: no workbook, several sheets with rows, no usable header, or an archive that expands without measure.
    """
    _refuse_bomb(file)
    try:
        import openpyxl

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of features that do not concern cells
            stored = openpyxl.load_workbook(file, read_only=True, data_only=True)
            formulas = openpyxl.load_workbook(file, read_only=True)
            try:
                title = _sheet(file, stored)
                yield from _rows(file, stored[title], formulas[title])
            finally:
                stored.close()
                formulas.close()
    except (zipfile.BadZipFile, KeyError, ValueError, SyntaxError, OSError, EOFError) as error:
        raise DataError(
            f"cannot be read as a workbook: {error}", where=str(file), remedy="open it in Excel and save it again"
        ) from error


def _refuse_bomb(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            expanded = sum(part.file_size for part in archive.infolist())
    except zipfile.BadZipFile as error:
        raise DataError(
            "is no Excel workbook: it is damaged, encrypted, or another kind of file",
            where=str(file),
            remedy="open it in Excel and save it as .xlsx without a password",
        ) from error
    size = file.stat().st_size
    if expanded > max(FREE_EXPANSION, LARGEST_EXPANSION * size):
        raise DataError(
            f"expands to {expanded // 2**20} MiB, more than {LARGEST_EXPANSION} times its size, as no text does",
            where=str(file),
            remedy="look at what it holds, and save its rows as .csv",
        )


def _sheet(file: Path, workbook: Any) -> str:
    found = [sheet.title for sheet in workbook.worksheets if sheet.sheet_state == "visible" and _has_cells(sheet)]
    if len(found) > 1:
        raise DataError(
            f"has several sheets with rows: {', '.join(found)}",
            where=str(file),
            remedy="hide all but the one to read, or save each as a file of its own",
        )
    if not found:
        raise DataError("has no rows", where=str(file), remedy="give a workbook with a header and rows below it")
    return str(found[0])


def _has_cells(sheet: Any) -> bool:
    sheet.reset_dimensions()  # what a workbook says of them may be wrong, and large
    return any(cell.value is not None for row in sheet.iter_rows() for cell in row)


def _rows(file: Path, stored: Any, formulas: Any) -> Iterator[Row | BadRow]:
    names: list[str] = []
    formulas.reset_dimensions()
    for number, (cells, written) in enumerate(zip(stored.iter_rows(), formulas.iter_rows(), strict=True), 1):
        try:
            values = [_value(cell, source) for cell, source in zip(cells, written, strict=True)]
        except _UnusableCellError as problem:
            yield BadRow(str(file), number, *problem.args)
            continue
        if all(value is None for value in values):
            continue
        if not names:
            names = header(str(file), ["" if value is None else str(value) for value in values])
            continue
        yield _row(str(file), number, names, values)


def _row(file: str, number: int, names: Sequence[str], values: Sequence[Any]) -> Row | BadRow:
    if any(value is not None for value in values[len(names) :]):
        return BadRow(file, number, "has a cell right of the header's last column")
    filled = zip(names, values, strict=False)  # a row ends with its last cell that was ever used
    return to_row({name: value for name, value in filled if name and value is not None}, file, number)


def _value(cell: Any, source: Any) -> Any:
    """Text of a cell; truth values stay what they are, for they may be labels."""
    value = cell.value
    if value is None:
        if source.data_type == "f" and source.value is not None:
            raise _UnusableCellError("a formula without a stored value", f"cell {source.coordinate}")
        return None
    if cell.data_type == "e":
        raise _UnusableCellError("a cell that holds an error", f"cell {cell.coordinate} has {value}")
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, bool) else str(value)
