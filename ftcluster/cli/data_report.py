"""A data report on the terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ftcluster.cli.data_files import show_dropped
from ftcluster.cli.output import console, notices, table

if TYPE_CHECKING:
    from ftcluster.config.schema import DataConfig, RunConfig
    from ftcluster.data.audit import Judgement
    from ftcluster.data.prepared.report import Report

_BAR = 40  # characters of the longest bar
_PAIRS = 5
_LANGUAGES = 5


def plain_report(report: Report, judgements: Sequence[Judgement], facts: dict[str, str]) -> dict[str, Any]:
    """The report for programs."""
    from ftcluster.data.audit.findings import count

    judged = [
        {
            "finding": judgement.finding,
            "refused": judgement.refused,
            "threshold": judgement.threshold,
            "says": str(judgement),
            "remedy": judgement.remedy,
        }
        for judgement in judgements
    ]
    counted = {
        name: {"rows": one.rows, "of": one.of, "share": one.share, "where": one.where}
        for name, one in count(report).items()
    }
    return {"judgements": judged, "findings": counted, "report": asdict(report), "training": facts}


def tell_data(report: Report, config: DataConfig) -> None:
    """What a run is about to read, in a line, and a line for each warning: before anything is trained."""
    from ftcluster.data.audit import judge
    from ftcluster.data.audit.summary import summary_lines

    for line in summary_lines(report, judge(report, config.warn, config.refuse)):
        notices().print(line, markup=False, soft_wrap=True)


def tell_engine(config: RunConfig, *, sweep: bool = False) -> None:
    """What people should know about the engine that trains a config, or the trials of a sweep over it."""
    from ftcluster.training.bench import engine_note

    if note := engine_note(config, sweep=sweep):
        notices().print(note, markup=False, soft_wrap=True)


def show_report(report: Report, judgements: Sequence[Judgement], facts: dict[str, str]) -> None:
    """Everything that matters on one or two screens."""
    from ftcluster.data.audit.summary import rows_line

    console().print(rows_line(report), markup=False, soft_wrap=True)
    for file, format in report.formats.items():
        console().print(f"  {format or 'no format'}: {file}", markup=False, soft_wrap=True, style="dim")
    show_dropped(report.dropped, "\nleft out")
    show_dropped(report.cut, "\nshortened, split, with tools as text, or not asked")
    if report.lengths:
        _show_lengths(report)
        _show_sides(report)
    _show_pairs(report)
    _show_languages(report)
    if facts:
        console().print()
        table(("training", ""), list(facts.items()))
    _show_judgements(judgements)


def _show_lengths(report: Report) -> None:
    most = max(one.rows for one in report.lengths)
    console().print(f"\n[bold]lengths[/bold]  tokens of a row before any cut; data.max_length is {report.max_length:,}")
    start = 1
    for one in report.lengths:
        over = one.tokens > report.max_length
        bar = "█" * max(round(_BAR * one.rows / most), 1 if one.rows else 0)
        style = "red" if over else "cyan"
        console().print(f"{start:>7,} - {one.tokens:<7,} [{style}]{bar}[/] {one.rows:,}", soft_wrap=True)
        start = one.tokens + 1


def _show_sides(report: Report) -> None:
    names = ("side", "rows", "documents", "tokens", "trained", "shortest", "median", "95 %", "longest")
    console().print()
    table(names, [(name, *asdict(side).values()) for name, side in report.splits.items()])
    if len(report.sources) > 1:
        rows = [(name, *asdict(source).values()) for name, source in report.sources.items()]
        table(("source", "documents", "tokens", "documents of an epoch", "tokens of an epoch"), rows)


def _show_pairs(report: Report) -> None:
    near = report.audit.get("near", {})
    for key, title in (("overlap_pairs", "held-out rows like training rows"), ("pairs", "rows like each other")):
        pairs = near.get(key, [])
        rows = [(pair["row"], pair["like"], pair["similarity"]) for pair in pairs[:_PAIRS]]
        if rows:
            table(("row", "is like", "similarity"), rows, title=f"\n{title}")


def _show_languages(report: Report) -> None:
    languages = report.audit.get("languages", {})
    if shares := languages.get("shares"):
        named = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(shares.items())[:_LANGUAGES])
        console().print(f"\nlanguages: {named} (of {languages['looked_at']:,} rows looked at)", highlight=False)


def _show_judgements(judgements: Sequence[Judgement]) -> None:
    console().print()
    if not judgements:
        console().print("[bold green]nothing to warn of[/]")
    for judgement in judgements:
        word, style = ("refused", "bold red") if judgement.refused else ("warning", "bold yellow")
        console().print(f"[{style}]{word}[/] [bold]{judgement.finding}[/bold]: ", end="")
        console().print(str(judgement), markup=False, soft_wrap=True)
        for place in judgement.counted.where[:3]:
            console().print(f"    {place}", markup=False, soft_wrap=True, style="dim")
        console().print(f"    -> {judgement.remedy}", markup=False, soft_wrap=True)
