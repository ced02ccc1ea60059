"""Arguments that several verbs share, declared once so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftcluster.cli.complete import complete_data, complete_data_file, complete_format, complete_override, complete_sweep

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        autocompletion=complete_override,
        help="Config: groups (model=folder) and keys (optim.lr=1e-3). See ftcluster config groups and config show.",
        show_default=False,
    ),
]
SweepFile = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP", autocompletion=complete_sweep, help="A sweep file, or the bare name of a shipped one."
    ),
]
ConfigDir = Annotated[
    Path | None,
    typer.Option(
        "--config-dir",
        metavar="FOLDER",
        help="Your own groups and experiments, laid out like conf/.",
        exists=True,
        file_okay=False,
    ),
]
Home = Annotated[
    Path | None,
    typer.Option("--home", metavar="FOLDER", help="Ledger, runs, embedded MLflow; default FTCLUSTER_HOME, ./runs."),
]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Resume although its owner, on a host that cannot be asked, may still live."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables for people.")]
DataWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE|KEY=VALUE",
        autocompletion=complete_data,
        help="Data files, which become data.train, and the words of ftcluster train.",
        show_default=False,
    ),
]
DataFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        autocompletion=complete_data_file,
        help="Data files, folders of them, URLs, or hub:owner/name.",
        show_default=False,
    ),
]
DataFormat = Annotated[
    str,
    typer.Option(
        "--format", metavar="NAME", autocompletion=complete_format, help="Their format; see ftcluster data formats."
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="FIELD=COLUMN", help="A field under another name in the files; may be repeated."),
]
OutFile = Annotated[Path, typer.Option("--to", metavar="OUT.jsonl", help="The file to write.", dir_okay=False)]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
