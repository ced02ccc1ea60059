"""A report from beginning to end: gathered, written into the sweep's folder, and stored with its MLflow run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ftcluster.comparison.delivery import hand_over
from ftcluster.config.environment import home_option
from ftcluster.errors import FtclusterError, StoreError
from ftcluster.ledger.store import Ledger
from ftcluster.report.findings import PAGE, SweepReport
from ftcluster.report.gather import gather
from ftcluster.report.page import MOST, write_page
from ftcluster.report.sentences import foretold


@dataclass(frozen=True)
class Written:
    """What was found, where the page is, and a word on why it is not in MLflow, if so."""

    report: SweepReport
    page: Path
    note: str = ""


def write_report(
    ledger: Ledger, sweep: str, *, home: Path, page: Path | None = None, price: float | None = None, now: float
) -> Written:
    """Report on a sweep, which may still go on; the page is ``<its folder>/report.html`` unless named.

    Raises:
        UsageError: it is no sweep, or has no trials yet.
        StoreError: the page cannot be written.
    """
    report = gather(ledger, sweep, price=price, now=now)
    row = ledger.get(report.title)
    path = (page or Path(row.folder) / PAGE).expanduser().absolute()
    try:
        write_page(report, path)
    except OSError as error:
        raise StoreError(
            f"cannot write the report: {error.strerror or error}", where=str(path), remedy="name another place: -o FILE"
        ) from error
    return Written(report, path, hand_over(ledger, row.name, path, home))


def closing_report(ledger: Ledger, sweep: str, *, home: Path, now: float) -> str:
    """The report of a sweep that ends, however it does; a line for people, also where there is none.

    Below a second for a hundred trials; where it would take long, people are told how to have it.
    """
    if len(ledger.runs(parent=sweep)) > MOST:
        return f"ftcluster report {sweep}{home_option(home)} says what it taught"
    try:
        written = write_report(ledger, sweep, home=home, now=now)
    except FtclusterError as error:
        return f"there is no report: {error.message}"
    return "\n".join([*foretold(written.report), f"report: {written.page}"])
