"""What the verbs on data files share: files by name, mapped columns, and rows that were left out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftcluster.cli.output import notices, table
from ftcluster.config.environment import default_home
from ftcluster.errors import UsageError

if TYPE_CHECKING:
    from ftcluster.data.prepared.report import Dropped
    from ftcluster.data.rows.reading import DataFile

_SHOWN = 3  # places per reason


def open_files(names: Sequence[str], format: str, columns: Sequence[str] | None) -> list[DataFile]:
    """Local files, all read alike; remote ones are downloaded first.

    Raises:
        DataError: a file that is not there or cannot be had, or an unknown format.
        UsageError: a column that is not FIELD=COLUMN.
    """
    from ftcluster.data.files.places import resolve
    from ftcluster.data.rows.examples import data_files
    from ftcluster.data.rows.formats import check_format

    mapping = _mapping(columns or ())
    if format != "auto":
        check_format(format, mapping)
    return data_files([str(file) for file in resolve(names, default_home() / "downloads")], format, mapping)


def _mapping(columns: Sequence[str]) -> dict[str, str]:
    pairs = [column.partition("=") for column in columns]
    if wrong := [column for column, pair in zip(columns, pairs, strict=True) if not pair[0] or not pair[2]]:
        raise UsageError(
            f"{wrong[0]} does not say which column a field is in", where="--column", remedy="such as answer=Response"
        )
    return {field: column for field, _, column in pairs}


def show_dropped(dropped: Sequence[Dropped], title: str) -> None:
    """Rows by reason, with the first places of each; nothing where there are none."""
    rows = [
        (each.rows, each.reason, ", ".join(each.where[:_SHOWN]) + (" …" if each.rows > _SHOWN else ""))
        for each in dropped
    ]
    if rows:
        table(("rows", "reason", "first"), rows, title=title)


def tell_next(words: Sequence[str]) -> None:
    """Name the command that goes on from here."""
    notices().print(f"next: {shlex.join(words)}", markup=False, soft_wrap=True)
