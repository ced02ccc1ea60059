"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere.

Pure rendering of rows; the driver decides when to show them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ftcluster.comparison.findings import short_names, value_text
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.units import format_seconds

_COLOURS = {
    RunState.WAITING: "dim",
    RunState.RUNNING: "cyan",
    RunState.PAUSED: "yellow",
    RunState.FINISHED: "bold green",
    RunState.PRUNED: "dim",
    RunState.FAILED: "bold red",
    RunState.KILLED: "red",
    RunState.INTERRUPTED: "magenta",
}


_URGENCY = {
    state: place for place, state in enumerate((RunState.RUNNING, RunState.FAILED, RunState.PAUSED, RunState.FINISHED))
}
_AROUND = 5  # lines of a screen that are not trials


@dataclass(frozen=True)
class TrialLine:
    """One trial as the table shows it; NaN is shown as a dash."""

    name: str
    state: RunState
    step: int
    until: int  # of the stretch that runs or ran last
    total: int
    loss: float  # newest training loss
    metric: float  # newest held-out metric
    tokens_per_s: float
    eta_s: float
    overrides: str
    note: str = ""


@dataclass(frozen=True)
class Overview:
    """The line above the table, and one on its budget where it has any besides trials."""

    sweep: str
    metric: str
    ended: int
    trials: int
    elapsed_s: float
    eta_s: float
    budget: str = ""


def note_of(trial: RunRow) -> str:
    """Why a trial is where it is, where people would ask."""
    return trial.reason if trial.state in (RunState.FAILED, RunState.KILLED, RunState.INTERRUPTED) else ""


def in_words(point: Mapping[str, Any]) -> str:
    """A trial's settings for people: ``lr=0.007 rank=16 targets=q_proj, v_proj``."""
    names = short_names(tuple(point))
    return "  ".join(f"{names[key]}={value_text(value)}" for key, value in point.items())


def table(lines: Sequence[TrialLine], overview: Overview) -> Table:
    """The live table: a title of progress and one row per trial."""
    title = (
        f"{overview.sweep}: {overview.ended} of {overview.trials} trials ended, "
        f"{format_seconds(overview.elapsed_s)} elapsed, about {format_seconds(overview.eta_s)} left"
    )
    title += f"\n{overview.budget}" if overview.budget else ""
    made = Table(title=title, title_justify="left", header_style="bold", pad_edge=False, box=None)
    made.add_column("trial", no_wrap=True)
    made.add_column("state", no_wrap=True)
    for name in ("step", "loss", overview.metric, "tokens/s", "ETA"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("settings", overflow="ellipsis", no_wrap=True, ratio=1)
    for line in lines:
        running = line.state is RunState.RUNNING
        colour = _COLOURS[line.state]
        made.add_row(
            line.name,
            Text(line.state.value, colour),
            f"{line.step}/{line.total}",
            _number(line.loss),
            _number(line.metric),
            f"{line.tokens_per_s:,.0f}" if running and line.tokens_per_s else "-",
            format_seconds(line.eta_s) if running else "-",
            Text(line.note or line.overrides),  # a path in brackets must not be taken for markup
            style="dim" if line.state is RunState.PRUNED else "",
        )
    return made


def urgent(lines: Sequence[TrialLine], most: int) -> list[TrialLine]:
    """As many as a screen has room for, in their order: what runs and what failed before what has ended."""
    if len(lines) <= most:
        return list(lines)
    first = sorted(range(len(lines)), key=lambda index: (_URGENCY.get(lines[index].state, len(_URGENCY)), -index))
    return [lines[index] for index in sorted(first[: max(most, 1)])]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


class View:
    """Shows a sweep on a console; use as a context manager."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._told: dict[str, tuple[RunState, int]] = {}
        self._shown_at = -math.inf

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live:
            self._live.stop()

    def show(self, lines: Sequence[TrialLine], overview: Overview) -> None:
        """Draw the table anew, or print a line for each trial whose state changed."""
        if self._live:
            if self._clock() - self._shown_at > 0.2 or all(line.state.ended for line in lines):
                self._live.update(table(urgent(lines, self._console.height - _AROUND), overview))
                self._shown_at = self._clock()
            return
        for line in lines:
            now = (line.state, line.until)
            if self._told.get(line.name) != now:
                self._told[line.name] = now
                if line.state is not RunState.WAITING:
                    self._console.print(self._plain(line, overview), markup=False, highlight=False, soft_wrap=True)

    def _plain(self, line: TrialLine, overview: Overview) -> str:
        text = f"[{format_seconds(overview.elapsed_s)}] {line.name} {line.state.value}"
        if line.state is RunState.RUNNING:
            return f"{text} to step {line.until} of {line.total}: {line.overrides}"
        detail = f" at step {line.step}, {overview.metric} {_number(line.metric)}" if line.step else ""
        return f"{text}{detail}{f' ({line.note})' if line.note else ''}"

    def note(self, text: str) -> None:
        """A line above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
