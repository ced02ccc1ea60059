"""Runs and curves as pandas tables, and as files for other programs. Pandas is imported when one is made."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcluster.errors import StoreError, UsageError
from ftcluster.ledger.schema import ReportRow, RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.report.records import Record
from ftcluster.tracking.history import read_metrics

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".csv", ".parquet")


def frame(records: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> pd.DataFrame:
    """A row per record; without ``columns`` every key that occurs, in the order of first appearance."""
    import pandas as pd

    records = list(records)
    keys = list(columns) or list(dict.fromkeys(key for one in records for key in one))
    return pd.DataFrame([{key: one.get(key) for key in keys} for one in records], columns=keys)


def trial_records(ledger: Ledger, sweep: str) -> list[Record]:
    """The trials of a sweep by number: what they varied, what they reported last, what became of them, how long."""
    reports = {report.run: report for report in ledger.reports(sweep)}  # by rung, so the last one stays
    trials = ledger.runs(parent=sweep)
    varied = list(dict.fromkeys(key for trial in trials for key in trial.overrides))
    return [_trial(trial, varied, reports.get(trial.name)) for trial in trials]


def _trial(trial: RunRow, varied: Sequence[str], report: ReportRow | None) -> Record:
    return {
        "trial": trial.name,
        "number": trial.number,
        **{key: trial.overrides.get(key) for key in varied},
        "state": trial.state.value,
        "reason": trial.reason,
        "step": trial.step,
        "tokens": report.tokens if report else 0,
        "seconds": report.seconds if report else 0.0,  # of training alone
        "took_s": trial.ended_at - trial.started_at if trial.ended_at and trial.started_at else None,
        **trial.metrics,
    }


def curve_records(trials: Sequence[RunRow], metrics: Collection[str]) -> Iterator[Record]:
    """Every value that trials recorded, or those of some metrics."""
    for trial in trials:
        for name, points in read_metrics(Path(trial.folder)).items():
            for point in points if not metrics or name in metrics else ():
                yield {
                    "trial": trial.name,
                    "metric": name,
                    "step": point.step,
                    "value": point.value,
                    "time": datetime.fromtimestamp(point.timestamp_ms / 1000, UTC),
                }


def check_export(path: Path) -> None:
    """Refuse a file of another kind, before anything is read.

    Raises:
        UsageError: it ends neither with .csv nor with .parquet.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path.name} is no kind of table", where="--export", remedy="end it with .csv or .parquet")


def export(records: Sequence[Record], path: Path, columns: Sequence[str] = ()) -> None:
    """Write records as CSV or Parquet, by the ending of the file: the old file or the new one, never a part.

    Raises:
        UsageError: another ending.
        StoreError: the place cannot be written.
    """
    check_export(path)
    table = frame([{key: _cell(value) for key, value in one.items()} for one in records], columns)
    for name in table.columns:
        if {type(value) for value in table[name] if value is not None} > {str}:  # Parquet has one type per column
            table[name] = [None if value is None else str(value) for value in table[name]]
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix.lower() == ".csv":
            table.to_csv(aside, index=False)
        else:
            table.to_parquet(aside, index=False)
        aside.replace(path)
    except OSError as error:
        raise StoreError(
            f"cannot write the table: {error.strerror or error}", where=str(path), remedy="name another place"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def _cell(value: Any) -> Any:
    """Lists and pairs as JSON text, which both kinds of file can hold."""
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False)
    return value
