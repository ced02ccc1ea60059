"""The report as one HTML file that needs nothing else and runs no script.

Texts of the data are shown in it, so it may load nothing from anywhere (Content Security Policy) and every value is
escaped. The same report gives the same page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ftcluster import __version__
from ftcluster.config.schema import DataConfig
from ftcluster.config.thresholds import NEVER, REFUSE, WARN
from ftcluster.contracts.folder import write_atomically
from ftcluster.data.audit.findings import FINDINGS, Counted, Judgement, count, percent
from ftcluster.data.audit.summary import rows_line
from ftcluster.data.prepared.report import Report
from ftcluster.pages import page_environment

_LANGUAGES = 12  # shown
_SIGNS = {"refused": "✗", "warning": "!", "found": "·", "none": "✓"}


@dataclass(frozen=True)
class Page:
    """What a page shows beside the report: its title, thresholds of the config, and facts such as predicted steps."""

    title: str
    warn: Mapping[str, float]
    refuse: Mapping[str, float]
    facts: Mapping[str, str]

    @classmethod
    def of(cls, data: DataConfig, report: Report, facts: Mapping[str, str]) -> Page:
        """Named after the first file, with the thresholds of a config."""
        names = [Path(file).name for file in report.formats] or ["no rows"]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return cls(names[0] + more, data.warn, {**data.refuse, "unusable": data.max_bad_rows}, facts)


def write_page(path: Path, report: Report, judgements: Sequence[Judgement], page: Page) -> Path:
    """Write the page; its folder is made.

    Raises:
        OSError: the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(report, judgements, page))
    return path


def render(report: Report, judgements: Sequence[Judgement], page: Page) -> str:
    """The page as text."""
    audit = report.audit
    near, languages = audit.get("near", {}), audit.get("languages", {"shares": {}})
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=page.title,
            verdict=_verdict(judgements),
            rows_line=rows_line(report),
            report=report,
            findings=_findings(report, judgements, page),
            facts=page.facts,
            bins=_bins(report),
            pair_lists=[pairs for pairs in _pair_lists(near) if pairs[2]],
            languages=list(languages["shares"].items())[:_LANGUAGES],
            near=near,
            version=__version__,
        )
    )


@cache
def _environment() -> Environment:
    return page_environment(["ftcluster.data.audit"], {"percent": percent})


def _verdict(judgements: Sequence[Judgement]) -> dict[str, str]:
    refused = sum(judgement.refused for judgement in judgements)
    warnings = len(judgements) - refused
    said = f"{warnings} warning{'s' if warnings != 1 else ''}"
    if refused:
        return {"kind": "refused", "text": f"Refused for {refused} reason{'s' if refused != 1 else ''}, {said}"}
    return {"kind": "warning", "text": said} if warnings else {"kind": "fine", "text": "Nothing to warn of"}


def _findings(report: Report, judgements: Sequence[Judgement], page: Page) -> list[dict[str, Any]]:
    judged = {judgement.finding: "refused" if judgement.refused else "warning" for judgement in judgements}
    counted = count(report)
    order = {"refused": 0, "warning": 1, "found": 2, "none": 3}
    rows = [_finding(name, counted[name], judged.get(name, ""), report, page) for name in FINDINGS]
    return sorted(rows, key=lambda row: (order[row["state"]], -row["counted"].share))


def _finding(name: str, counted: Counted, judged: str, report: Report, page: Page) -> dict[str, Any]:
    state = judged or ("found" if counted.rows else "none")
    shows = [place["shows"] for place in report.audit.get("found", {}).get(name, {"where": []})["where"]]
    places = [
        f"{place}: {shown}" if shown else place
        for place, shown in zip(counted.where, [*shows, *[""] * len(counted.where)], strict=False)
    ]
    return {
        "name": name,
        "state": state,
        "sign": _SIGNS[state],
        "counted": counted,
        "places": places,
        "meaning": FINDINGS[name].meaning,
        "remedy": FINDINGS[name].remedy,
        "warn": _limit({**WARN, **page.warn}[name]),
        "refuse": _limit({**REFUSE, **page.refuse}[name]),
    }


def _limit(share: float) -> str:
    return "never" if share >= NEVER else percent(share) if share else "any row"


def _bins(report: Report) -> list[dict[str, Any]]:
    most = max((one.rows for one in report.lengths), default=0)
    bins: list[dict[str, Any]] = []
    start = 1
    for one in report.lengths:
        over = one.tokens > report.max_length
        first_over = over and not any(made["over"] for made in bins)
        width = round(100 * one.rows / most, 1) if most else 0
        label = f"{start:,} – {one.tokens:,}"
        bins.append({"label": label, "rows": one.rows, "width": width, "over": over, "first_over": first_over})
        start = one.tokens + 1
    return bins


def _pair_lists(near: Mapping[str, Any]) -> list[tuple[str, str, Sequence[Mapping[str, Any]]]]:
    return [
        ("overlap", "Held-out rows that are like training rows", near.get("overlap_pairs", ())),
        ("near", "Rows that are like each other", near.get("pairs", ())),
    ]
