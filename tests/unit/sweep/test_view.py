"""What a sweep shows: a table on a terminal, a line per change elsewhere, and never a word lost to markup."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console
from rich.text import Text

from ftcluster.contracts.trial import RunState
from ftcluster.sweep.view import Overview, TrialLine, View, in_words, urgent

LINE = TrialLine(
    "a-00", RunState.RUNNING, 7, 10, 40, loss=1.25, metric=math.nan, tokens_per_s=0.0, eta_s=9.0, overrides="rank=8"
)
OVERVIEW = Overview("a", "eval/loss", 0, 2, 3.0, math.nan)


def shown(*lines: TrialLine, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    with View(console) as view:
        for line in lines:
            view.show([line], OVERVIEW)
    assert isinstance(console.file, io.StringIO)
    return Text.from_ansi(console.file.getvalue()).plain


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("reason", ["see [/data/x]/log", "no layer called [q_prj]"])
def test_what_an_error_says_in_brackets_is_shown_as_it_stands(reason: str, terminal: bool) -> None:
    failed = replace(LINE, state=RunState.FAILED, note=reason)
    assert reason in shown(failed, terminal=terminal)


def test_the_table_has_a_dash_for_what_is_not_known_yet() -> None:
    text = shown(LINE, terminal=True)
    assert "a: 0 of 2 trials ended, 0:03 elapsed, about - left" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("a-00")]
    assert row == ["a-00", "running", "7/40", "1.2500", "-", "-", "0:09", "rank=8"]


def test_without_a_terminal_each_change_is_told_once() -> None:
    paused = replace(LINE, state=RunState.PAUSED, step=10, metric=0.5)
    assert shown(LINE, replace(LINE, step=8), paused, paused, terminal=False).splitlines() == [
        "[0:03] a-00 running to step 10 of 40: rank=8",
        "[0:03] a-00 paused at step 10, eval/loss 0.5000",
    ]


def test_settings_are_written_for_people() -> None:
    assert (
        in_words({"optim.lr": 0.0069999, "adapter.targets": ["q_proj", "v_proj"]}) == "lr=0.007  targets=q_proj, v_proj"
    )


def test_a_screen_shows_what_runs_and_what_failed_before_what_has_ended() -> None:
    states = [RunState.PRUNED] * 50 + [RunState.FINISHED, RunState.RUNNING, RunState.FAILED]
    lines = [replace(LINE, name=f"t-{number}", state=state) for number, state in enumerate(states)]
    assert [line.name for line in urgent(lines, 4)] == ["t-49", "t-50", "t-51", "t-52"]
    assert urgent(lines[:3], 3) == lines[:3]
