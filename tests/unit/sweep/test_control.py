"""What is asked of a sweep, as it stands in the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftcluster.config.compose import compose, to_dict
from ftcluster.config.schema import BudgetConfig, RunConfig, SweepConfig
from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.errors import ConfigError, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.control import (
    PAUSE,
    STOP,
    ask,
    control,
    extended,
    respecify,
    specification,
    unfinished,
    with_trial,
)

SPEC = SweepConfig(name="s", space={"adapter.rank": "choice(2, 4)"}, budget=BudgetConfig(trials=4))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as ledger:
        ledger.add(RunRow("s", "sweep", str(tmp_path / "s"), {"spec": to_dict(SPEC), "base": to_dict(RunConfig())}))
        ledger.add(RunRow("s-00", "trial", str(tmp_path / "s" / "s-00"), {}, parent="s"))
        ledger.add(RunRow("alone", "train", str(tmp_path / "alone"), {}))
        yield ledger


def test_a_sweep_and_its_trials_are_asked_apart_and_the_last_word_counts(ledger: Ledger) -> None:
    ask(ledger, ledger.get("s-00"), PAUSE)
    row = ask(ledger, ledger.get("s"), STOP)
    asked = control(row)
    assert (asked.sweep.state, asked.trials["s-00"].state) == (STOP, PAUSE)
    assert asked.sweep.reason.startswith("stopped by ")
    row = ask(ledger, ledger.get("s-00"), "")
    assert control(row).trials == {}
    assert control(row).sweep.state == STOP


def test_what_has_ended_and_what_is_no_trial_cannot_be_asked(ledger: Ledger) -> None:
    ledger.set_state("s-00", RunState.KILLED)
    with pytest.raises(UsageError, match="s-00 is killed"):
        ask(ledger, ledger.get("s-00"), PAUSE)
    with pytest.raises(UsageError, match="alone is no trial"):
        ask(ledger, ledger.get("alone"), STOP)


def test_a_sweep_that_has_ended_waits_again_once_it_is_longer(ledger: Ledger) -> None:
    ask(ledger, ledger.get("s"), STOP)
    ledger.set_state("s", RunState.KILLED)
    row = respecify(ledger, ledger.get("s"), lambda spec: extended(spec, 6))
    assert row.state is RunState.WAITING
    assert specification(row).budget.trials == 6
    assert control(row).sweep.state == ""
    with pytest.raises(UsageError, match=r"budget\.trials=6 already"):
        respecify(ledger, row, lambda spec: extended(spec, 5))


def test_named_trials_get_names_of_their_own_and_nonsense_is_refused() -> None:
    base = compose(["experiment=lora_sft"])
    first = with_trial(SPEC, base, ["adapter.rank=16"])
    second = with_trial(first, base, ["adapter.rank=16", "optim.lr=1e-3"])
    assert second.always == {"added-1": ["adapter.rank=16"], "added-2": ["adapter.rank=16", "optim.lr=0.001"]}
    with pytest.raises(ConfigError, match=r"adapter\.rnk"):
        with_trial(SPEC, base, ["adapter.rnk=16"])


def test_the_same_sweep_is_found_until_it_has_ended_also_when_it_was_made_longer(ledger: Ledger) -> None:
    respecify(ledger, ledger.get("s"), lambda spec: extended(spec, 6))
    found = unfinished(ledger.runs("sweep"), SPEC)
    assert found is not None
    assert found.name == "s"
    assert unfinished(ledger.runs("sweep"), replace(SPEC, metric="eval/perplexity")) is None
    ledger.set_state("s", RunState.KILLED)
    assert unfinished(ledger.runs("sweep"), SPEC) is None


def test_a_report_and_the_wait_behind_it_are_written_together(ledger: Ledger) -> None:
    ledger.set_state("s-00", RunState.RUNNING)
    (row,) = ledger.pause_all([(TrialReport("s-00", 10, {"eval/loss": 2.0}), 0)])
    assert (row.state, row.rung, row.step, row.metrics) == (RunState.PAUSED, 0, 10, {"eval/loss": 2.0})
    ledger.set_state("s-00", RunState.KILLED)
    with pytest.raises(Exception, match="cannot become"):
        ledger.pause_all([(TrialReport("s-00", 20, {"eval/loss": 1.0}), 1)])
    assert [report.rung for report in ledger.reports("s")] == [0]
