"""``ftcluster data convert``: any readable format to messages, one JSON object per line."""

from __future__ import annotations

from ftcluster.cli.arguments import Columns, DataFiles, DataFormat, Force, Json, OutFile
from ftcluster.cli.data_files import open_files, show_dropped, tell_next
from ftcluster.cli.output import console, print_json
from ftcluster.cli.progress import RowsBar


def convert(
    files: DataFiles,
    to: OutFile,
    format: DataFormat = "auto",
    columns: Columns = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Convert files of any known format to messages, with their tools, preference pairs and labels.

    [bold]Examples[/bold]

      ftcluster data convert alpaca.json --to rows.jsonl

      ftcluster data convert answers.xlsx --to rows.jsonl --column question=Frage --column answer=Antwort

    Texts keep every character and line end. Rows that cannot be used are listed. Plain text stays plain text.
    """
    from ftcluster.data.curation.convert import convert as converting

    opened = open_files(files, format, columns)
    with RowsBar("converting") as bar:
        done = converting(opened, to, force=force, progress=bar.update)
    if as_json:
        print_json(done)
        return
    kinds = ", ".join(f"{rows:,} {name}" for name, rows in done.formats.items())
    console().print(f"{done.rows:,} rows ({kinds or 'none'}) are in {to}", markup=False, soft_wrap=True)
    show_dropped(done.dropped, "left out")
    tell_next(["ftcluster", "data", "check", str(to)])
