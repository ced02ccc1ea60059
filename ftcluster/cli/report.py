"""``ftcluster report``: what a sweep taught, in words, numbers and a page."""

from __future__ import annotations

import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ftcluster.cli.arguments import Home, Json
from ftcluster.cli.complete import complete_run
from ftcluster.cli.output import console, notices, print_json
from ftcluster.config.environment import default_home


def report(
    sweep: Annotated[
        str,
        typer.Argument(metavar="SWEEP", autocompletion=complete_run, help="Its name, or the beginning of it."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="Where to write the page.", show_default="HOME/SWEEP/report.html"
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0.0, metavar="N", help="Money for a GPU-hour, to say what the sweep cost.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Say what a sweep taught: which setting is best, which parameters matter, what it took.

    [bold]Examples[/bold]

      ftcluster report my-sweep --open

      ftcluster report my-sweep --price 2.5 -o my_sweep.html

    Works while the sweep goes on. Nothing is trained or measured; [bold]ftcluster compare[/bold] measures the best
    trials on the test rows.
    """
    from ftcluster.ledger.store import Ledger
    from ftcluster.report.sentences import sentences
    from ftcluster.report.summary import summary
    from ftcluster.report.write import write_report
    from ftcluster.training.records import reap

    place = (home or default_home()).expanduser().absolute()
    with Ledger.open(place) as ledger:
        reap(ledger)
        found = write_report(ledger, sweep, home=place, page=out, price=price, now=time.time())
    if as_json:
        print_json({**summary(found.report), "report": found.page})
    else:
        first, *others = sentences(found.report)
        console().print(first, style="bold", markup=False, soft_wrap=True)
        for sentence in others:
            console().print(sentence, markup=False, soft_wrap=True)
        console().print(f"\nreport: {found.page}", markup=False, soft_wrap=True)
    if found.note:
        notices().print(found.note, markup=False, soft_wrap=True)
    if open_page and not webbrowser.open(found.page.as_uri()):
        notices().print("no browser was found; open the page by hand", markup=False)
