"""The comparison as one HTML file; ``document`` has what such pages share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment

from ftcluster.comparison import document, plots
from ftcluster.comparison.answers import Question, questions
from ftcluster.comparison.findings import Comparison, Contender, short_names, value_text
from ftcluster.comparison.verdict import amount, percent, sentences
from ftcluster.contracts.folder import write_atomically

_MOST_CONFIGS = 12  # contenders whose configs are laid beside each other


def write_report(comparison: Comparison, path: Path) -> Path:
    """Write the page; its folder is made.

    Raises:
        OSError: the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(comparison))
    return path


def page(comparison: Comparison) -> str:
    """The whole page as text; the same comparison gives the same text."""
    figures, asked = _figures(comparison), questions(comparison)
    return document.render(
        _environment(),
        "report.html",
        figures,
        comparison.made_at,
        comparison=comparison,
        title=comparison.title,
        words=sentences(comparison),
        columns=short_names(comparison.varied),
        colours=plots.colours(comparison),
        questions=asked,
        views=_views(asked),
        tabs=_tabs(figures, asked),
        differing=_differing(comparison),
        shared=_shared(comparison),
    )


@cache
def _environment() -> Environment:
    return document.environment(filters={"percent": percent, "amount": lambda value, kind: amount(kind, value)})


def _figures(comparison: Comparison) -> dict[str, plots.Figure]:
    metrics = dict.fromkeys(name for contender in comparison.contenders for name in contender.curves)
    figures = {f"curve {name}": plots.curves(comparison, name) for name in sorted(metrics, key=_curve_order)}
    if len({step for c in comparison.contenders for step, _ in c.rungs}) > 1:
        figures["rungs"] = plots.rungs(comparison)
    measured = [c for c in comparison.contenders if c.score is not None]
    if comparison.varied and len(measured) > 1:
        figures["parallel"] = plots.parallel(comparison)
        figures |= {f"scatter {key}": plots.scatter(comparison, key) for key in comparison.varied}
    differences = [d for c in comparison.tested for d in (c.against_base, c.against_best) if d]
    if any(d.match for d in differences):
        figures["intervals exact match"] = plots.intervals(comparison, answers=True)
    if differences:
        figures["intervals loss"] = plots.intervals(comparison, answers=False)
    return figures


def _curve_order(name: str) -> tuple[bool, str]:
    return name.startswith("train/"), name


def _tabs(figures: dict[str, plots.Figure], asked: list[Question]) -> list[tuple[str, str]]:
    """Id and label of each part that is there."""
    parts = [("trials", "Runs"), ("curves", "Curves")]
    parts += [("parameters", "Parameters")] if "parallel" in figures else []
    parts += [("answers", "Answers")] if asked else []
    return [*parts, ("facts", "Data and config")]


def _views(asked: list[Question]) -> list[tuple[str, str, int]]:
    """Tag, label and number of prompts of each way to look at the answers."""
    labels = {
        "disagree": "where they disagree",
        "wrong": "where the first is wrong",
        "gained": "gained over base",
        "lost": "lost against base",
    }
    counted = [(tag, label, sum(tag in question.tags for question in asked)) for tag, label in labels.items()]
    return [("all", "all", len(asked)), *(view for view in counted if view[2])]


def _differing(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Config keys in which the first few differ, with each one's value."""
    shown = comparison.contenders[:_MOST_CONFIGS]
    rows = ((key, [value_text(c.config.get(key)) for c in shown]) for key in _keys(comparison.contenders))
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _shared(comparison: Comparison) -> list[tuple[str, str]]:
    """Config keys that all have in common."""
    rows = (
        (key, {value_text(c.config.get(key)) for c in comparison.contenders}) for key in _keys(comparison.contenders)
    )
    return [(key, values.pop()) for key, values in rows if len(values) == 1]


def _keys(contenders: tuple[Contender, ...]) -> list[str]:
    return list(dict.fromkeys(key for contender in contenders for key in contender.config))
