"""``ftcluster data sample``: a small share of a data set that stands for all of it."""

from __future__ import annotations

from typing import Annotated

import typer

from ftcluster.cli.arguments import Columns, DataFiles, DataFormat, Force, Json, OutFile
from ftcluster.cli.data_files import open_files, show_dropped, tell_next
from ftcluster.cli.output import console, print_json
from ftcluster.cli.progress import RowsBar


def sample(
    files: DataFiles,
    to: OutFile,
    share: Annotated[float, typer.Option(help="Share of the rows, such as 0.01.")] = 0.01,
    format: DataFormat = "auto",
    columns: Columns = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Take a share of the rows, to see on little data whether more of it is worth its price.

    [bold]Examples[/bold]

      ftcluster data sample rows.jsonl --share 0.01 --to one_percent.jsonl

      ftcluster data sample rows.jsonl --share 0.1 --to ten_percent.jsonl

    Every file and every length of rows has its share. The rows of the smaller sample are all in the larger one, so
    losses at 1 %, 10 % and 100 % lie on one curve.
    """
    from ftcluster.data.curation.sampling import sample as sampling

    opened = open_files(files, format, columns)
    with RowsBar("sampling") as bar:
        done = sampling(opened, to, share, force=force, progress=bar.update)
    if as_json:
        print_json(done)
        return
    console().print(f"{done.rows:,} of {done.of:,} rows are in {to}", markup=False, soft_wrap=True)
    show_dropped(done.dropped, "could not be used")
    tell_next(["ftcluster", "data", "check", str(to)])
