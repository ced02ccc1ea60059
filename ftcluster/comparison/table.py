"""The comparison in a terminal: the trials, best first; what was measured on test rows; what it says in words."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftcluster.comparison.findings import Comparison, Contender, Differences, score_text, short_names, value_text
from ftcluster.comparison.verdict import amount, percent, sentences
from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.trial import RunState
from ftcluster.units import format_seconds

_ROOMY = 100  # columns of a terminal with space for speed and time
_UNHAPPY = (RunState.FAILED, RunState.KILLED, RunState.INTERRUPTED)
_STYLES = {RunState.FINISHED: "green", RunState.PRUNED: "yellow"} | dict.fromkeys(_UNHAPPY, "red")
_VERDICTS = {"better": "green", "worse": "red", "not distinguishable": "dim"}


def render(comparison: Comparison, width: int = 120) -> RenderableType:
    """Tables and sentences for a terminal of ``width`` columns, ready to print."""
    words = [Text(sentence) for sentence in sentences(comparison)]
    words[0].stylize("bold")
    parts: list[RenderableType] = [_trials(comparison, roomy=width >= _ROOMY), *_failures(comparison)]
    if comparison.tested:
        parts.append(_tested(comparison))
    return Group(*parts, Text(), *words)


def _trials(comparison: Comparison, *, roomy: bool) -> Table:
    table = _table(comparison.title)
    table.add_column("run", overflow="fold")
    for name in short_names(comparison.varied).values():
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("step", comparison.metric, *(("tokens/s", "time") if roomy else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for contender in comparison.contenders:
        bold = "bold" if contender is comparison.best else ""
        cells = [Text(contender.name, bold)]
        cells += [Text(value_text(contender.parameters.get(key))) for key in comparison.varied]
        cells += [Text(contender.state, _STYLES.get(contender.state, "cyan")), Text(str(contender.step))]
        cells.append(Text(score_text(contender.score), bold))
        table.add_row(*cells, *(_speed(contender) if roomy else ()))
    return table


def _speed(contender: Contender) -> tuple[str, str]:
    return (
        "–" if contender.tokens_per_s is None else f"{contender.tokens_per_s:,.0f}",
        "–" if contender.seconds is None else format_seconds(contender.seconds),
    )


def _tested(comparison: Comparison) -> Table:
    table = _table("on the test rows: differences of exact match in points, of loss in nats per token")
    table.add_column("run", overflow="fold")
    table.add_column("loss", justify="right", no_wrap=True)
    answers = any(c.record and c.record.answers for c in comparison.tested)
    if answers:
        table.add_column("exact", justify="right", no_wrap=True)
    table.add_column("against base")
    table.add_column(f"against {comparison.tested[0].name}")
    if comparison.base:
        table.add_row("base model", *_numbers(comparison.base, answers=answers), "–", "–", style="dim")
    for contender in comparison.tested:
        assert contender.record is not None
        differences = (_difference(contender.against_base), _difference(contender.against_best))
        table.add_row(contender.name, *_numbers(contender.record, answers=answers), *differences)
    return table


def _numbers(record: TestRecord, *, answers: bool) -> list[str]:
    return [f"{record.loss:.3f}", *([percent(record.exact_match)] if answers else [])]


def _difference(differences: Differences | None) -> Text:
    if differences is None:
        return Text("–")
    lines = []
    for kind, found in differences.each:
        low, high, middle = (amount(kind, value) for value in (found.low, found.high, found.estimate))
        lines.append(Text.assemble((found.verdict, _VERDICTS[found.verdict]), f" {middle} [{low}, {high}]"))
    return Text("\n").join(lines)


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")


def _failures(comparison: Comparison) -> list[Text]:
    return [
        Text(f"{c.name} {c.state}: {(c.reason or 'no reason recorded').splitlines()[0]}", "red")
        for c in comparison.contenders
        if c.state in _UNHAPPY
    ]
