"""Progress on standard error: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ftcluster.cli.output import notices

if TYPE_CHECKING:
    from ftcluster.training.loop import Progress as TrainingProgress


class Bar:
    """A bar with a title; shown from the first update on. Use as a context manager."""

    def __init__(self, title: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=notices(), transient=True)
        self._task = self._bar.add_task(title, total=None, detail="")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hide()

    def hide(self) -> None:
        """Take the bar off the screen; the next update shows it again."""
        if self._bar.live.is_started:  # rich prints an empty line for one that was never shown
            self._bar.stop()

    def update(self, done: int, total: int | None, detail: str = "") -> None:
        """``done`` of ``total`` units are done; None: nobody knows how many there are."""
        if notices().is_terminal:
            self._bar.start()
            self._bar.update(self._task, completed=done, total=total, detail=detail or f"{done}/{total}")


class RowsBar(Bar):
    """Rows of data files and how many of them a second; their number may not be known before they are read."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._started: float | None = None
        self._before = 0

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        """``done`` rows of ``total`` have been read."""
        if self._started is None:  # the first rows also pay for the start of workers
            self._started, self._before = time.perf_counter(), done
        speed = (done - self._before) / max(time.perf_counter() - self._started, 1e-9)
        rows = f"{done:,} rows" if total is None else f"{done:,} of {total:,} rows"
        super().update(done, total, detail or (f"{rows}  {speed:,.0f} rows/s" if done > self._before else rows))


class TrainingBar(Bar):
    """Step, loss and speed of a training; without a terminal a line every tenth of the way."""

    def __init__(self) -> None:
        super().__init__("training")
        self._told = 0

    def observe(self, progress: TrainingProgress, total: int) -> None:
        """Show a step; the bar goes away with the last one."""
        held_out = (progress.metrics or {}).get("eval/loss")
        detail = f"step {progress.step}/{total}  loss {progress.loss:.4f}  {progress.tokens_per_s:,.0f} tokens/s"
        detail += f"  eval/loss {held_out:.4f}" if held_out is not None else ""
        self.update(progress.step, total, detail)
        if not notices().is_terminal and progress.step * 10 // total > self._told:
            self._told = progress.step * 10 // total
            notices().print(detail)
        if progress.step == total:
            self.hide()
            self._told = 0
