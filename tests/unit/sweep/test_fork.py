"""A trial goes on from another one's state, and may be told to twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcluster.config.catalog import flat
from ftcluster.config.compose import compose, to_dict
from ftcluster.config.grammar import parse_space
from ftcluster.config.schema import PrunerConfig, SweepConfig
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.data.prepared.batches import Efficiency
from ftcluster.data.prepared.report import EpochSummary, Report
from ftcluster.engine import checkpoint
from ftcluster.errors import StoreError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.facts import Facts
from ftcluster.sweep.fork import fork_all
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.space import Space
from ftcluster.training.session import Plan


@pytest.fixture
def plan() -> SweepPlan:
    base = compose(["experiment=lora_sft", "model.path=/m", "data.train=[/rows.jsonl]"])
    space = Space(parse_space({"optim.lr": "interval(1e-4, 1e-2)"}), base=flat(base))
    report = Report(0, 0, 0, 0, 512, {}, (), (), (), {}, {}, EpochSummary(0, 0))
    steps = Plan(12, 4, 4, 20, 100.0, Efficiency(0.5, None))
    return SweepPlan("s", SweepConfig("s", pruner=PrunerConfig("pbt")), base, space, 2, (4, 8, 12), steps, "", report)


@pytest.fixture
def facts(plan: SweepPlan, tmp_path: Path) -> Iterator[Facts]:
    """Two trials that reported at the first rung; each has a checkpoint that says whose it is."""
    with Ledger.open(tmp_path) as ledger:
        ledger.add(RunRow("s", "sweep", str(tmp_path), {}))
        for number, rate in enumerate((1e-3, 2e-3)):
            point = {"optim.lr": rate}
            config = to_dict(plan.trial_config(number, plan.space.words(point)))
            name = plan.trial_name(number)
            ledger.add(RunRow(name, "trial", str(tmp_path / name), config, point, parent="s", number=number))
            checkpoint.commit(
                RunFolder(tmp_path / name).checkpoints, 4, lambda aside, name=name: (aside / "state").write_text(name)
            )
            ledger.set_state(name, RunState.RUNNING)
        facts = Facts(ledger, "s", "eval/loss")
        for name in ("s-00", "s-01"):
            facts.record([(TrialReport(name, 4, {"eval/loss": 1.0}), 0)])
        yield facts


def state(facts: Facts, name: str) -> str:
    newest = checkpoint.newest(RunFolder(Path(facts.get(name).folder)).checkpoints, warn=str)
    assert newest is not None
    return (newest / "state").read_text()


def test_a_fork_takes_over_state_and_settings_once(facts: Facts, plan: SweepPlan) -> None:
    fork_all(facts, plan, {1: 0})
    assert state(facts, "s-01") == "s-00"
    forked = facts.get("s-01")
    assert forked.overrides["optim.lr"] in (8e-4, 1.25e-3)
    assert forked.config["optim"]["lr"] == forked.overrides["optim.lr"]
    assert (forked.config["name"], forked.state, forked.rung) == ("s-01", RunState.PAUSED, 0)
    assert facts.ledger.get("s-01") == forked
    checkpoints = RunFolder(Path(forked.folder)).checkpoints
    checkpoint.commit(checkpoints, 6, lambda aside: (aside / "state").write_text("trained further") and None)
    fork_all(facts, plan, {1: 0})
    assert (facts.get("s-01"), state(facts, "s-01")) == (forked, "trained further")
    assert facts.get("s-00").overrides == {"optim.lr": 1e-3}


def test_a_fork_whose_end_was_not_written_down_is_done_again(facts: Facts, plan: SweepPlan) -> None:
    before = facts.get("s-01")
    fork_all(facts, plan, {1: 0})
    done = facts.get("s-01")
    facts.set_state("s-01", RunState.PAUSED, config=before.config, overrides=before.overrides)
    fork_all(facts, plan, {1: 0})
    assert facts.get("s-01") == done
    assert state(facts, "s-01") == "s-00"


def test_a_state_that_is_not_there_is_told_and_nothing_is_changed(facts: Facts, plan: SweepPlan) -> None:
    (RunFolder(Path(facts.get("s-00").folder)).checkpoints / checkpoint.name_of(4)).rename(
        Path(facts.get("s-00").folder) / "x"
    )
    with pytest.raises(StoreError, match="the checkpoint of step 4 could not be written"):
        fork_all(facts, plan, {1: 0})
    assert state(facts, "s-01") == "s-01"
    assert facts.get("s-01").overrides == {"optim.lr": 2e-3}
