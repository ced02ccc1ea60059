"""``ftcluster compare``: which run is better, by how much, and how sure that is."""

from __future__ import annotations

import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ftcluster.cli.arguments import Home, Json
from ftcluster.cli.complete import complete_run
from ftcluster.cli.output import console, notices, print_json
from ftcluster.cli.progress import Bar
from ftcluster.config.environment import default_home


def compare(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="SWEEP_OR_RUN...",
            autocompletion=complete_run,
            help="A sweep, or runs by name, its beginning, or id.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many of a sweep's best trials to test.")] = 3,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write the report.", show_default="HOME/SWEEP/comparison.html"),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Compare runs on the same held-out rows: a table here, and a page with curves and answers side by side.

    [bold]Examples[/bold]

      ftcluster compare my-sweep --top 5 --open

      ftcluster compare run-a run-b --html a_or_b.html

    Trials are ranked by the sweep's metric on the validation rows. The first few and the base model are then
    measured on the test rows, which no run was trained or chosen on; differences come with 95 % intervals, and
    one that could be chance is called "not distinguishable".
    """
    from ftcluster.comparison import compare as comparing
    from ftcluster.comparison.summary import summary
    from ftcluster.comparison.table import render
    from ftcluster.ledger.store import Ledger

    place = (home or default_home()).expanduser().absolute()
    with Ledger.open(place) as ledger, Bar("testing") as bar:
        found = comparing.compare(
            ledger,
            references,
            home=place,
            top=top,
            page=html,
            announce=lambda name, done, count: bar.update(done, count, name),
            now=time.time(),
        )
    if as_json:
        print_json({**summary(found.comparison), "report": found.page})
    else:
        console().print(render(found.comparison, console().width))
        console().print(f"\nreport: {found.page}", soft_wrap=True)
    if found.note:
        notices().print(found.note, soft_wrap=True)
    if open_page and not webbrowser.open(found.page.as_uri()):
        notices().print("no browser was found; open the report by hand")
