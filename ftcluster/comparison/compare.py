"""A comparison from beginning to end: gathered, written as a page, and stored with the sweep's MLflow run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcluster.comparison.delivery import hand_over
from ftcluster.comparison.findings import Comparison
from ftcluster.comparison.gather import Announce, gather
from ftcluster.comparison.html import write_report
from ftcluster.errors import StoreError
from ftcluster.ledger.store import Ledger

PAGE = "comparison.html"


@dataclass(frozen=True)
class Compared:
    """What was found, where the page is, and a word on why it is not in MLflow, if so."""

    comparison: Comparison
    page: Path
    note: str = ""


def compare(
    ledger: Ledger,
    references: Sequence[str],
    *,
    home: Path,
    top: int = 3,
    page: Path | None = None,
    announce: Announce = lambda *_: None,
    now: float,
) -> Compared:
    """Compare and write the page, by default ``<home>/<sweep>/comparison.html``.

    Raises:
        UsageError: nothing to compare, or a reference that is no run.
        DataError: runs of different data.
        StoreError: a folder is gone or cannot be written.
    """
    comparison = gather(ledger, references, top=top, announce=announce, now=now)
    path = (page or _place(comparison, home)).expanduser().absolute()
    try:
        write_report(comparison, path)
    except OSError as error:
        raise StoreError(
            f"cannot write the report: {error.strerror or error}",
            where=str(path),
            remedy="name another place: --html FILE",
        ) from error
    note = hand_over(ledger, comparison.name, path, home) if comparison.name else ""
    return Compared(comparison, path, note)


def _place(comparison: Comparison, home: Path) -> Path:
    if comparison.name:
        return home / comparison.name / PAGE
    names = "-".join(contender.name for contender in comparison.contenders)
    return home / "comparisons" / f"{names[:100]}.html"
