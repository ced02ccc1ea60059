"""How long a sweep will still take, what it has spent, and what was foretold of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from ftcluster.config.schema import BudgetConfig, PrunerConfig, SweepConfig
from ftcluster.config.values import to_dict
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep import prediction
from ftcluster.sweep.prediction import PROBE, Prediction
from ftcluster.sweep.remaining import remaining
from ftcluster.sweep.standing import budget_in_words
from ftcluster.sweep.timeline import Span

HALVING = SweepConfig(name="s", pruner=PrunerConfig("halving", eta=2))
RUNGS = (10, 20, 40)


def span(number: int, rung: int, started: float, seconds: float, end: str = "reported") -> Span:
    return Span(f"s-{number}", rung, f"host {number % 2}", ("a",), 0.0, started, started + seconds, end)


def test_nothing_is_said_before_a_stretch_has_ended() -> None:
    assert math.isnan(remaining(HALVING, RUNGS, 4, [], now=5))
    assert math.isnan(remaining(HALVING, RUNGS, 4, [span(0, 0, 0, 3, "lost")], now=5))


def test_what_is_left_takes_as_long_as_what_was() -> None:
    """Of 4 trials 2 are at step 10 after 20 s: then 2 more, 2 at once to step 20 and one to step 40, at 2 s a step."""
    seen = [span(0, 0, 100, 20), span(1, 0, 100, 20)]
    assert remaining(HALVING, RUNGS, 4, seen, now=120) == 20 + 20 + 40
    assert remaining(HALVING, RUNGS, 4, seen, now=130) == 70
    assert remaining(HALVING, RUNGS, 4, seen, now=120, running=4) == 20 + 20 + 40
    assert remaining(HALVING, RUNGS, 4, seen[:1], now=120) == 3 * 20 + 2 * 20 + 40
    assert remaining(HALVING, RUNGS, 4, seen, now=120, failed=2) == 20 + 40


def test_later_rungs_count_by_their_own_times_once_these_are_known() -> None:
    seen = [*(span(number, 0, 0, 20) for number in range(4)), span(0, 1, 20, 50), span(1, 1, 20, 50)]
    assert remaining(HALVING, RUNGS, 4, seen, now=70) == pytest.approx(20 * (4 * 20 + 2 * 50) / (4 * 10 + 2 * 10))
    done = [*seen, span(0, 2, 70, 10)]
    assert remaining(HALVING, RUNGS, 4, done, now=80) == 0


def test_what_was_spent_of_a_budget_is_told() -> None:
    spec = replace(HALVING, budget=BudgetConfig(hours=12, gpu_hours=2, money=50))
    row = RunRow("s", "sweep", "f", {"spec": to_dict(spec), "spent": {"gpu_hours": 0.25, "money": 1.5}})
    assert budget_in_words(row, 1800) == "spent: 0.5 of 12 hours, 0.25 of 2 GPU-hours, 1.50 of 50.00 in money"
    assert budget_in_words(RunRow("s", "sweep", "f", {"spec": to_dict(HALVING)}), 1800) == ""


def test_a_sweep_that_is_launched_takes_along_what_was_planned(tmp_path: Path) -> None:
    made = Prediction(PROBE, 10, 8, 12, 0.5, 1000)
    prediction.keep(tmp_path, HALVING, made)
    prediction.adopt(tmp_path, replace(HALVING, repeats=2), tmp_path / "other")
    assert prediction.read(tmp_path / "other") is None
    prediction.adopt(tmp_path, HALVING, tmp_path / "s")
    assert prediction.read(tmp_path / "s") == made
    prediction.write(tmp_path / "s", replace(made, seconds=99))
    assert prediction.read(tmp_path / "s") == made
    prediction.adopt(tmp_path, HALVING, tmp_path / "again")
    assert prediction.read(tmp_path / "again") is None
