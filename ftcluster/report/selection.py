"""Which runs a list shows, in which order, and what of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.report.records import Record, check_keys, filtered, ordered, record


@dataclass(frozen=True)
class Wanted:
    """``limit`` of 0: all; without ``sort`` it keeps the newest, with it the first."""

    states: tuple[RunState, ...] = ()
    expression: str = ""
    sort: str = ""
    reverse: bool = False
    limit: int = 0
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """Rows and their records, in the same order; ``narrowed`` records have the wanted columns alone."""

    rows: tuple[RunRow, ...]
    records: tuple[Record, ...]
    columns: tuple[str, ...]
    sort: str  # by which key, so that the first are shown; empty: the newest are
    left_out: int  # by the limit
    ended: Mapping[str, str]  # of each sweep, how many of its trials have

    @property
    def narrowed(self) -> list[Record]:
        return [{key: one.get(key) for key in self.columns} for one in self.records]


def choose(rows: Sequence[RunRow], wanted: Wanted, everything: Sequence[RunRow], now: float) -> Chosen:
    """Those of ``rows`` that are wanted; ``everything`` there is tells of their trials.

    Raises:
        UsageError: a key that no run has, an expression that cannot be read.
    """
    by_name = {row.name: row for row in rows}
    records = [record(row, now) for row in rows]
    if records:
        check_keys(records, wanted.columns, "--columns")
        records = filtered(records, wanted.expression) if wanted.expression else records
    records = [one for one in records if not wanted.states or one["state"] in wanted.states]
    if wanted.sort and records:
        records = ordered(records, wanted.sort, reverse=wanted.reverse)
    kept = records
    if wanted.limit:
        kept = records[: wanted.limit] if wanted.sort else records[-wanted.limit :]
    shown = tuple(by_name[one["name"]] for one in kept)
    return Chosen(shown, tuple(kept), wanted.columns, wanted.sort, len(records) - len(kept), _ended(shown, everything))


def _ended(shown: Sequence[RunRow], everything: Sequence[RunRow]) -> dict[str, str]:
    found: dict[str, list[bool]] = {row.name: [] for row in shown if row.kind == "sweep"}
    for row in everything:
        if row.parent in found:
            found[row.parent].append(row.state.ended)
    return {name: f"{sum(ends)}/{len(ends)} trials" for name, ends in found.items()}
