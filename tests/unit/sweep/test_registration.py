"""The same sweep launched by many at once is one sweep, unless another one is asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ftcluster.config.schema import PrunerConfig, RunConfig, SweepConfig
from ftcluster.data.prepared.batches import Efficiency
from ftcluster.data.prepared.report import EpochSummary, Report
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.launch import register
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.space import Space
from ftcluster.training.session import Plan


def plan(home: Path, eta: int = 2) -> SweepPlan:
    spec = SweepConfig(name="s", pruner=PrunerConfig("halving", "10 steps", eta))
    steps = Plan(40, 5, 5, 20, 100.0, Efficiency(0.5, None))
    report = Report(0, 0, 0, 0, 512, {}, (), (), (), {}, {}, EpochSummary(0, 0))
    return SweepPlan("s", spec, RunConfig(home=str(home)), Space({}), 8, (10, 20, 40), steps, "hash", report)


def test_a_hundred_launches_of_one_sweep_at_once_are_one_sweep(tmp_path: Path) -> None:
    def launch(_: int) -> str:
        with Ledger.open(tmp_path) as ledger:
            return register(plan(tmp_path), ledger, once=True).name

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(launch, range(100))) == {"s"}
    with Ledger.open(tmp_path) as ledger:
        assert [row.name for row in ledger.runs("sweep")] == ["s"]
        assert register(plan(tmp_path, eta=3), ledger, once=True).name == "s-2"
        assert register(plan(tmp_path), ledger).name == "s-3"
