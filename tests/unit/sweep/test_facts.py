"""What a driver knows of its trials is what the ledger says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.errors import StoreError, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.facts import Facts


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.open(tmp_path)
    ledger.add(row("s", kind="sweep"))
    return ledger


def row(name: str, number: int = 0, kind: str = "trial") -> RunRow:
    parent = "s" if kind == "trial" else None
    return RunRow(name, kind, f"/runs/{name}", {}, parent=parent, number=number)  # type: ignore[arg-type]


def trials(*numbers: int) -> list[RunRow]:
    return [row(f"s-{number}", number) for number in numbers]


def assert_as_read_anew(facts: Facts) -> None:
    fresh = Facts(facts.ledger, "s", "loss")
    assert (facts.trials, facts.open, facts.values) == (fresh.trials, fresh.open, fresh.values)


def test_it_knows_what_another_one_reads(ledger: Ledger) -> None:
    facts = Facts(ledger, "s", "loss")
    facts.add(trials(0, 1, 2))
    facts.set_states((name, RunState.RUNNING, "") for name in ("s-0", "s-1", "s-2"))
    facts.record([(TrialReport("s-0", 5, {"loss": 0.5}), 0), (TrialReport("s-2", 5, {"loss": 0.25}), 0)])
    facts.set_state("s-1", RunState.FAILED, reason="no luck")
    assert_as_read_anew(facts)
    assert facts.values == {0: {0: 0.5}, 2: {0: 0.25}}
    assert [(trial.name, trial.state) for trial in facts.open] == [("s-0", RunState.PAUSED), ("s-2", RunState.PAUSED)]


def test_what_could_not_be_written_together_it_does_not_know(ledger: Ledger) -> None:
    facts = Facts(ledger, "s", "loss")
    facts.add(trials(0))
    with pytest.raises(UsageError, match="there is a run"):
        facts.add(trials(1, 0))
    with pytest.raises(StoreError, match="cannot become"):
        facts.set_states([("s-0", RunState.RUNNING, ""), ("s-0", RunState.FINISHED, ""), ("s-0", RunState.RUNNING, "")])
    facts.set_state("s-0", RunState.RUNNING)
    with pytest.raises(StoreError, match="no run"):
        facts.record([(TrialReport("s-0", 5, {"loss": 0.5}), 0), (TrialReport("s-9", 5, {"loss": 0.5}), 0)])
    assert [(trial.name, trial.state) for trial in facts.trials] == [("s-0", RunState.RUNNING)]
    assert_as_read_anew(facts)
