"""``ftcluster data split``: training, validation and test files, divided as a training would."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftcluster.cli.arguments import Columns, DataFiles, DataFormat, Force, Json
from ftcluster.cli.data_files import open_files, show_dropped
from ftcluster.cli.output import print_json, table
from ftcluster.cli.progress import RowsBar


def split(
    files: DataFiles,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the files go.", file_okay=False)],
    validation: Annotated[float, typer.Option(min=0, max=1, help="Share of the rows that steers training.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of the rows that only measures.")] = 0.1,
    format: DataFormat = "auto",
    columns: Columns = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl, each row as it stands.

    [bold]Example[/bold]

      ftcluster data split rows.jsonl --out divided --validation 0.05 --test 0.05

    A row's side depends on what it says alone, as in a training: it stays there when rows are added, and copies are
    never on two sides.
    """
    from ftcluster.data.curation.divide import divide

    opened = open_files(files, format, columns)
    with RowsBar("splitting") as bar:
        done = divide(opened, out, validation, test, force=force, progress=bar.update)
    if as_json:
        print_json(done)
        return
    table(("side", "rows", "file"), [(side, done.rows[side], path) for side, path in done.files.items()])
    show_dropped(done.dropped, "left out")
