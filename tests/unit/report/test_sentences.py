"""What a report says in words, and that it claims no more than the trials show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_samples import START, Trial, make_sweep, searched, valley

from ftcluster.contracts.trial import RunState
from ftcluster.errors import UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.report.findings import SweepReport
from ftcluster.report.gather import gather
from ftcluster.report.sentences import sentences
from ftcluster.sweep import prediction
from ftcluster.sweep.prediction import PROBE, Prediction


def report(
    home: Path, trials: Sequence[Trial], end: RunState | None = RunState.FINISHED, **spec: object
) -> SweepReport:
    name = make_sweep(home, trials, end=end, **spec)
    with Ledger.open(home) as ledger:
        return gather(ledger, name, now=START)


def said(home: Path, trials: Sequence[Trial], end: RunState | None = RunState.FINISHED) -> str:
    return " ".join(sentences(report(home, trials, end))).replace("\u00a0", " ")


def test_a_sweep_with_an_effect_says_what_matters_and_what_does_not(tmp_path: Path) -> None:
    text = said(tmp_path, searched(40))
    assert "made-0" in text.split(" has the best value")[0]
    assert "The sweep is finished: 40 of 40 trials ended: 10 finished and 30 stopped early." in text
    assert "lr explains 9" in text
    assert "of the differences in eval/loss at step 10, where 40 of 40 trials can be compared" in text
    assert "rank made no difference you can measure (under 10 %)" in text
    assert "Stopping 30 trials early saved 50 % of the steps: 800 of 1,600 were trained." in text
    assert "It took 4 hosts at once, busy 82 % of" in text


def test_noise_is_never_called_an_effect_and_no_difference_is_not_claimed_either(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    trials = [replace(trial, values=[float(draw.normal())]) for trial in searched(12)]
    text = said(tmp_path, trials)
    assert "explains" not in text
    assert "cannot be told from 12 trials" in text


def test_with_too_few_trials_it_says_how_many_it_takes(tmp_path: Path) -> None:
    assert "4 trials with a value at step 10 are too few" in said(tmp_path, searched(4))


def test_one_seed_each_is_said(tmp_path: Path) -> None:
    assert "Each setting was trained with one seed" in said(tmp_path, searched(8))


@pytest.mark.parametrize(
    ("noise", "expected"), [(0.001, "ahead of the next 2 by more than seeds"), (5.0, "cannot be told from")]
)
def test_seeds_decide_whether_a_lead_is_one(tmp_path: Path, noise: float, expected: str) -> None:
    draw = np.random.default_rng(0)
    trials = [
        Trial({"optim.lr": rate, "seed": seed}, [valley(rate, noise * float(draw.normal()))])
        for rate in (1e-3, 6e-3, 5e-2)
        for seed in (1, 2, 3)
    ]
    assert expected in said(tmp_path, trials)


def test_a_sweep_that_still_runs_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    trials = [*searched(8), Trial({"optim.lr": 1e-3, "adapter.rank": 4}, state=RunState.WAITING)]
    text = said(tmp_path, trials, end=None)
    assert "The sweep is running: 8 of 9 trials ended" in text


def test_failures_alike_are_told_once(tmp_path: Path) -> None:
    trials = [
        Trial({"optim.lr": 0.1 * n}, state=RunState.FAILED, reason=f"loss is NaN at step {n}\ndetail")
        for n in (1, 2, 3)
    ]
    text = said(tmp_path, trials, end=RunState.FAILED)
    assert "No trial has a validation result" in text
    assert "3 trials failed: loss is NaN at step 1." in text


def test_one_trial_is_a_report_too(tmp_path: Path) -> None:
    text = said(tmp_path, [Trial({"optim.lr": 1e-3}, [1.5])])
    assert text.startswith("made-000 has the best value (eval/loss 1.5): lr=0.001.")


def test_a_larger_metric_may_be_the_better_one(tmp_path: Path) -> None:
    found = report(tmp_path, searched(12), direction="maximize")
    assert found.settings[0].mean == max(s.mean for s in found.settings if s.judged[0].state is RunState.FINISHED)


def test_nan_and_infinity_are_no_values(tmp_path: Path) -> None:
    trials = [Trial({"optim.lr": 1e-1}, [float("nan")]), Trial({"optim.lr": 1e-2}, [float("inf")]), *searched(10)]
    found = report(tmp_path, trials)
    assert len(found.rung.values) == 10
    assert [setting.mean for setting in found.settings[-2:]] == [None, None]


def test_only_a_sweep_with_trials_can_be_reported_on(tmp_path: Path) -> None:
    make_sweep(tmp_path, [])
    with Ledger.open(tmp_path) as ledger:
        ledger.add(RunRow("single", "train", str(tmp_path / "single"), {}))
        with pytest.raises(UsageError, match="nothing to compare yet"):
            gather(ledger, "made", now=START)
        with pytest.raises(UsageError, match="single is a train, not a sweep"):
            gather(ledger, "single", now=START)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (
            RunState.FINISHED,
            "Foretold from a probe: 1:30 (1:20 to 1:45), 0.5 host-hours and 9.8 KiB of disk; it took 0:00, 0.",
        ),
        (None, ""),
    ],
)
def test_what_was_foretold_stands_beside_what_it_took(tmp_path: Path, end: RunState | None, expected: str) -> None:
    (tmp_path / "made").mkdir()
    prediction.write(tmp_path / "made", Prediction(PROBE, 90, 80, 105, 0.5, 10_000))
    text = said(tmp_path, searched(8), end)
    assert expected in text
    assert ("Foretold" in text) is bool(expected)
