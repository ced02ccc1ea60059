"""The terminal table."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from comparison_samples import contender, sample
from rich.console import Console

from ftcluster.comparison.findings import Comparison
from ftcluster.comparison.table import render
from ftcluster.contracts.trial import RunState


def printed(comparison: Comparison, width: int = 120) -> str:
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(render(comparison, width))
    return out.getvalue()


def test_trials_stand_in_their_order_with_parameters_and_score() -> None:
    lines = printed(sample()).splitlines()
    rows = [line.split() for line in lines if line.strip().startswith("demo-0")]
    assert [row[0] for row in rows[:4]] == ["demo-004", "demo-005", "demo-002", "demo-003"]
    assert rows[0][1:6] == ["0.00215", "8", "q_proj", "finished", "400"]


def test_verdicts_carry_their_intervals() -> None:
    text = printed(sample(), 160)
    assert "better +81.7 [+71.7, +91.7]" in text
    assert "not distinguishable -1.7 [-5.0, +0.0]" in text


def test_a_failed_trial_says_why_in_one_line() -> None:
    assert "demo-007 failed: Diverged: the loss became nan\n" in printed(sample())


def test_every_column_of_the_trials_is_readable_in_80_columns() -> None:
    head = next(line for line in printed(sample(), 80).splitlines() if "eval/loss" in line)
    assert head.split() == ["run", "lr", "rank", "targets", "state", "step", "eval/loss"]


def test_a_wide_terminal_shows_speed_and_time_too() -> None:
    assert "12,350" in printed(sample(), 120)


def test_a_sweep_that_has_only_begun_has_a_table_too() -> None:
    begun = replace(sample(), contenders=(contender(0, RunState.RUNNING),), base=None)
    text = printed(begun)
    assert "running" in text
    assert "on the test rows" not in text


def test_markup_in_a_value_is_shown_as_it_is() -> None:
    odd = replace(contender(0, score=0.5), parameters={"data.format": "[red]x[/red]"})
    assert "[red]x[/red]" in printed(replace(sample(), contenders=(odd,)))
