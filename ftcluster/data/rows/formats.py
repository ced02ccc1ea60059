"""What the columns of a row mean: each known format turns a row into an ``Example``.

Owns the table of formats and how a file's is recognised. What their columns mean is ``columns``, reading files is
``blocks``, rendering is ``template``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ftcluster.data.files.source import BadRow, Row
from ftcluster.data.rows.columns import (
    Values,
    read_alpaca,
    read_labels,
    read_messages,
    read_preference,
    read_prompt_completion,
    read_question_answer,
    read_sharegpt,
    read_text,
)
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.turns import UnusableError
from ftcluster.errors import DataError

_SHOWN_COLUMNS = 20
_SHOWN_CHARACTERS = 40  # of a column's name: a table without a header has text there


@dataclass(frozen=True)
class Format:
    """Our names of its fields; ``data.columns`` maps them to other columns. A row has one of ``either``, if any."""

    required: tuple[str, ...]
    read: Callable[[Row, Values], Example]
    optional: tuple[str, ...] = ()
    either: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields, required ones first."""
        return self.required + self.either + self.optional

    @property
    def needs(self) -> str:
        """The fields that tell it apart, in words."""
        either = " or ".join(self.either)
        return ", ".join([*self.required, either] if either else self.required)


def detect(rows: Sequence[Row], columns: Mapping[str, str] | None = None) -> str:
    """The format of a file from its first rows: the only one whose columns most of them have.

    A format that knows all the columns of another and needs more of them goes before it: rows with messages, chosen
    and rejected are preference pairs.

    Raises:
        DataError: none fits, or several do.
    """
    mapping = columns or {}
    every = sorted({name for known in FORMATS.values() for name in known.fields})
    if unknown := sorted(set(mapping) - set(every)):
        raise _unknown_field(unknown[0], every)
    fitting = {name: known for name, known in FORMATS.items() if _fits(known, rows, mapping)}
    names = [name for name in fitting if not any(_contains(fitting[other], fitting[name]) for other in fitting)]
    if len(names) == 1:
        return names[0]
    raise DataError(
        f"{'several formats fit' if names else 'no known format fits'} the columns {_columns(rows)}"
        + (f": {', '.join(names)}" if names else ""),
        where=rows[0].file if rows else "",
        remedy="name it with data.format=..., and columns of other names with data.columns={our_field: column}. "
        + "Formats: "
        + "; ".join(f"{name} ({known.needs})" for name, known in FORMATS.items()),
    )


def _fits(known: Format, rows: Sequence[Row], mapping: Mapping[str, str]) -> bool:
    if not set(mapping) <= set(known.fields):  # a mapped field that it does not have means another was meant
        return False

    def has(row: Row, name: str) -> bool:
        return mapping.get(name, name) in row.values

    having = [
        all(has(row, name) for name in known.required)
        and (not known.either or any(has(row, name) for name in known.either))
        for row in rows
    ]
    return sum(having) * 2 > len(rows)


def _contains(larger: Format, smaller: Format) -> bool:
    return set(smaller.required) <= set(larger.fields) and not set(larger.required) <= set(smaller.fields)


def _columns(rows: Sequence[Row]) -> str:
    found = sorted({column for row in rows for column in row.values})
    shown = [name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "…" for name in found]
    more = f" and {len(found) - _SHOWN_COLUMNS} more" if len(found) > _SHOWN_COLUMNS else ""
    return (", ".join(shown[:_SHOWN_COLUMNS]) or "(none)") + more


def check_format(name: str, columns: Mapping[str, str]) -> Format:
    """The format of that name.

    Raises:
        DataError: no such format, or ``columns`` maps a field it does not have.
    """
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        raise DataError(
            f'unknown data format "{name}"' + (f'; did you mean "{near[0]}"?' if near else ""),
            where="data.format",
            remedy=f"known formats: auto, {', '.join(FORMATS)}",
        )
    known = FORMATS[name]
    if columns and (unknown := sorted(set(columns) - set(known.fields))):
        raise _unknown_field(unknown[0], known.fields)
    return known


def _unknown_field(name: str, fields: Sequence[str]) -> DataError:
    return DataError(
        f'no field "{name}" to map a column to',
        where="data.columns",
        remedy=f"fields: {', '.join(fields)}; write data.columns={{our_field: column_of_the_file}}",
    )


def to_example(row: Row, format: str, columns: Mapping[str, str]) -> Example | BadRow:
    """The row's conversation or text.

    Raises:
        DataError: as ``check_format``.
    """
    known = check_format(format, columns)
    names = {name: columns.get(name, name) for name in known.fields}
    values = {name: row.values[column] for name, column in names.items() if row.values.get(column) is not None}
    for name in known.required:
        if name not in values:
            return BadRow(row.file, row.line, f'no "{names[name]}"', f"it has {_columns([row])}")
    if known.either and not any(name in values for name in known.either):
        wanted = " or ".join(f'"{names[name]}"' for name in known.either)
        return BadRow(row.file, row.line, f"no {wanted}", f"it has {_columns([row])}")
    try:
        return known.read(row, values)
    except UnusableError as problem:
        return BadRow(row.file, row.line, problem.reason, problem.detail)


FORMATS: dict[str, Format] = {
    "messages": Format(("messages",), read_messages, ("system", "tools")),
    "sharegpt": Format(("conversations",), read_sharegpt, ("system", "tools")),
    "alpaca": Format(("instruction", "output"), read_alpaca, ("input", "system", "history")),
    "prompt_completion": Format(("prompt", "completion"), read_prompt_completion, ("system", "tools")),
    "question_answer": Format(("question", "answer"), read_question_answer, ("system",)),
    "text": Format(("text",), read_text),
    "preference": Format(
        ("chosen", "rejected"),
        read_preference,
        ("prompt", "messages", "conversations", "instruction", "input", "system", "tools"),
    ),
    "labels": Format(
        ("label",), read_labels, ("prompt", "system", "tools"), either=("messages", "conversations", "completion")
    ),
}
