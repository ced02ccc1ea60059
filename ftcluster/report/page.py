"""The report as one HTML file, in the document that comparisons stand in too."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ftcluster.comparison import document, plots
from ftcluster.comparison.findings import short_names
from ftcluster.comparison.verdict import percent
from ftcluster.contracts.folder import write_atomically
from ftcluster.report import figures
from ftcluster.report.findings import SweepReport
from ftcluster.report.sentences import foretold, sentences

MOST = 1500  # trials that a page shows: what is more nobody reads, and a browser is slow with


def write_page(report: SweepReport, path: Path) -> Path:
    """Write the page; its folder is made.

    Raises:
        OSError: the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(report))
    return path


def page(report: SweepReport, most: int = MOST) -> str:
    """The whole page as text, with the best ``most`` trials; the same report gives the same text."""
    words, count = sentences(report), len(report.comparison.contenders)
    best = replace(report.comparison, contenders=report.comparison.contenders[:most])
    report = replace(report, comparison=best, settings=report.settings[:most])
    drawn = _figures(report)
    comparison = report.comparison
    names = short_names(comparison.varied)
    return document.render(
        _environment(),
        "sweep.html",
        drawn,
        comparison.made_at,
        report=report,
        comparison=comparison,
        title=comparison.title,
        words=words,
        foretold=foretold(report),
        left_out=count - len(best.contenders),
        columns=names,
        colours=plots.colours(comparison),
        tabs=_tabs(drawn, report),
    )


@cache
def _environment() -> Environment:
    return document.environment("ftcluster.report", {"percent": percent})


def _figures(report: SweepReport) -> dict[str, plots.Figure]:
    comparison = report.comparison
    drawn: dict[str, Any] = {}
    if len({step for c in comparison.contenders for step, _ in c.rungs}) > 1:
        drawn["rungs"] = plots.rungs(comparison)
    if report.tokens:
        drawn["tokens"] = figures.by_tokens(report)
    if any(c.curves.get(comparison.metric) for c in comparison.contenders):
        drawn["curve"] = plots.curves(comparison, comparison.metric)
    if report.repeated and report.settings[0].mean is not None:
        drawn["intervals"] = figures.intervals(report)
    if any(share.known for share in report.influence.shares):
        drawn["influence"] = figures.influence(report)
    drawn |= {f"objective {name}": found for name in report.also if (found := figures.trade_off(report, name))}
    if report.keys and sum(plots.finite(c.score) for c in comparison.contenders) > 1:
        drawn["parallel"] = plots.parallel(figures.without_labels(report))
        drawn |= {f"slice {key}": plots.scatter(comparison, key) for key in report.keys}
        drawn |= {"surface": found} if (found := figures.surface(report)) else {}
    if report.usage.spans:
        drawn["timeline"] = figures.timeline(report)
    return drawn


def _tabs(drawn: dict[str, plots.Figure], report: SweepReport) -> list[tuple[str, str]]:
    """Id and label of each part that is there."""
    parts = [("ranking", "Ranking")]
    parts += [("curves", "Curves")] if drawn.keys() & {"rungs", "curve"} else []
    parts += [("parameters", "Parameters")] if "parallel" in drawn else []
    parts += [("endings", "Stopped and failed")] if report.pruned or report.failed else []
    return [*parts, *([("cluster", "Time and cost")] if report.usage.spans else [])]
