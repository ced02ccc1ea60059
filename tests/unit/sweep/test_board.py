"""What a driver shows of the time that is left, and what it foretells of a sweep that was not planned."""

from __future__ import annotations

import io
import time
from pathlib import Path

from rich.console import Console

from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.contracts.trial import RunState
from ftcluster.data.prepared.batches import Efficiency
from ftcluster.data.prepared.report import EpochSummary, Report
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep import prediction
from ftcluster.sweep.board import Board
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.prediction import BEGINNING
from ftcluster.sweep.space import Space
from ftcluster.sweep.timeline import Span, append
from ftcluster.sweep.view import Overview, View
from ftcluster.training.session import Plan

STEPS = Plan(40, 5, 5, 20, 100.0, Efficiency(0.5, None))
REPORT = Report(0, 0, 0, 0, 512, {}, (), (), (), {}, {}, EpochSummary(0, 0))
PLAN = SweepPlan("s", SweepConfig(name="s"), RunConfig(), Space({}), 4, (40,), STEPS, "hash", REPORT)


class Seen(View):
    """Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.overviews: list[Overview] = []

    def show(self, lines, overview):  # type: ignore[no-untyped-def]
        super().show(lines, overview)
        self.overviews.append(overview)


def board(view: View, *, steps_before: int = 0, clock: float = 100.0) -> Board:
    return Board(PLAN, view, lambda: clock, steps_before, 90.0, {})


def trial(folder: Path, number: int, state: RunState, step: int) -> RunRow:
    return RunRow(f"s-{number}", "trial", str(folder / f"s-{number}"), {}, number=number, state=state, step=step)


def test_the_time_that_is_left_comes_from_stretches_that_have_ended(tmp_path: Path) -> None:
    view, now = Seen(), time.time()
    rows = [trial(tmp_path, 0, RunState.FINISHED, 40), trial(tmp_path, 1, RunState.RUNNING, 0)]
    board(view).show(rows, {})
    assert view.overviews[-1].eta_s == 120 / (40 / 10)  # no stretch is recorded: 40 steps in 10 s, 120 to go
    append(tmp_path, Span("s-0", 0, "host 0", ("a",), 0.0, now - 20, now, "reported"))
    board(view).show(rows, {})
    assert 55 < view.overviews[-1].eta_s <= 60  # three more of 20 s
    found = prediction.read(tmp_path)
    assert found is not None
    assert found.basis == BEGINNING
    assert 65 < found.seconds <= 70  # 10 s are over


def test_a_driver_that_goes_on_with_a_sweep_foretells_nothing_of_it(tmp_path: Path) -> None:
    append(tmp_path, Span("s-0", 0, "host 0", ("a",), 0.0, 0, 20, "reported"))
    board(Seen(), steps_before=40).show([trial(tmp_path, 0, RunState.FINISHED, 40)], {})
    assert prediction.read(tmp_path) is None
