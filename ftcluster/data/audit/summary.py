"""A report and its judgements in a few lines, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ftcluster.data.audit.findings import Judgement
from ftcluster.data.prepared.report import Dropped, Report

_REASONS = 3  # named in one line


def summary_lines(report: Report, judgements: Sequence[Judgement]) -> list[str]:
    """What was used and left out, and why; then a line for each warning and refusal."""
    return [rows_line(report), *(f"{kind(each)}: {each} ({each.finding}){_first(each)}" for each in judgements)]


def rows_line(report: Report) -> str:
    """How many rows were read, used and left out."""
    sides = ", ".join(f"{side.rows:,} {split}" for split, side in report.splits.items() if side.rows)
    line = f"data: {report.rows_read:,} rows read, {report.rows_used:,} used ({sides or 'none'})"
    left_out = report.rows_read - report.rows_used
    if left_out:
        line += f", {left_out:,} left out: {_reasons(report.dropped)}"
    if report.cut:
        line += f"; changed: {_reasons(report.cut)}"
    return line


def kind(judgement: Judgement) -> str:
    """What a judgement is called."""
    return "refused" if judgement.refused else "warning"


def _reasons(dropped: Sequence[Dropped]) -> str:
    named = [f"{each.rows:,} {each.reason}" for each in dropped[:_REASONS]]
    more = len(dropped) - len(named)
    return ", ".join(named) + (f", and {more} more reasons" if more else "")


def _first(judgement: Judgement) -> str:
    return f"; first {judgement.counted.where[0]}" if judgement.counted.where else ""
