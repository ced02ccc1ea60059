"""How verbs speak: one console for people, JSON for programs. What is said is each verb's own business."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> Console:
    """Standard output. Colours and widths follow the terminal; ``NO_COLOR`` and pipes switch them off."""
    return _console(stderr=False)


@cache
def notices() -> Console:
    """Standard error: progress, hints and warnings, so that standard output stays usable in a pipe."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = max(made.width, 120)  # a file or a pipe has no width; 80 would fold tables
    return made


def print_json(value: Any) -> None:
    """Print a value for programs: dataclasses become objects, paths text, NaN and infinity null."""
    print(json.dumps(_plain(value), ensure_ascii=False, indent=2, allow_nan=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print rows under headings; columns of numbers are set to the right."""
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    grid = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numbers = bool(cells) and all(isinstance(row[index], int | float) for row in cells)
        grid.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in row))
    console().print(grid)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path | datetime):
        return str(value)
    return value
