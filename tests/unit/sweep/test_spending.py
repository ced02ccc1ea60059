"""What a sweep has spent, over kills of its driver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftcluster.cluster.placement import Resources
from ftcluster.config.schema import BudgetConfig, SweepConfig
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.spending import Spending, price_of, spent


@dataclass(frozen=True)
class Rented:
    """A host that is up."""

    resources: Resources
    nodes: tuple[str, ...]


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


TWO_GPUS = Rented(Resources(1, 1, ranks=2), ("a", "b"))
HALF_A_GPU = Rented(Resources(1, 0.5), ("a",))
CPUS = Rented(Resources(4, 0), ("c",))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as ledger:
        ledger.add(RunRow("s", "sweep", str(tmp_path / "s"), {"spec": {}}))
        ledger.set_state("s", RunState.RUNNING)
        yield ledger


def sweep(**budget: Any) -> SweepConfig:
    return SweepConfig(budget=BudgetConfig(**budget))


def spending(ledger: Ledger, clock: Clock, told: list[str]) -> Spending:
    gpus = {"a": "NVIDIA H100 80GB HBM3", "b": "NVIDIA L4"}
    return Spending(ledger, "s", told.append, clock, lambda: gpus)


def test_hosts_spend_gpu_hours_while_they_are_up_and_a_new_driver_goes_on_counting(ledger: Ledger) -> None:
    clock, budget = Clock(), sweep(gpu_hours=5)
    first = spending(ledger, clock, [])
    clock.now += 3600
    assert first.over(budget, [TWO_GPUS, HALF_A_GPU]) == ""
    assert spent(ledger.get("s")).gpu_hours == 2.5
    clock.now += 10_000_000  # nobody drives it
    second = spending(ledger, clock, [])
    clock.now += 1800
    assert second.over(budget, [TWO_GPUS, HALF_A_GPU]) == ""
    clock.now += 1800
    assert second.over(budget, [TWO_GPUS, HALF_A_GPU]) == "budget.gpu_hours=5 are spent"
    assert spent(ledger.get("s")).gpu_hours == 5.0
    assert ledger.get("s").config["spec"] == {}


def test_money_goes_by_the_kind_of_gpu(ledger: Ledger) -> None:
    clock, budget = Clock(), sweep(money=100, price={"h100": 4.0, "L4": 1.0, "cpu": 0.5})
    counting = spending(ledger, clock, [])
    clock.now += 7200
    assert counting.over(budget, [TWO_GPUS, HALF_A_GPU, CPUS]) == ""
    assert spent(ledger.get("s")).money == 2 * (4 + 1 + 2 + 0.5)


def test_a_gpu_without_a_price_of_its_own_costs_what_any_does_or_the_most_that_is_known() -> None:
    assert price_of({"H100": 4.0, "gpu": 2.0}, "NVIDIA L4") == 2.0
    assert price_of({"H100": 4.0, "A100": 2.0, "cpu": 9.0}, "NVIDIA L4") == 4.0
    assert price_of({"H100": 4.0}, "") == 0.0


def test_hosts_without_gpus_spend_none_and_people_are_told_once(ledger: Ledger) -> None:
    clock, told = Clock(), list[str]()
    counting = spending(ledger, clock, told)
    for _ in range(3):
        clock.now += 3600
        assert counting.over(sweep(gpu_hours=0.001), [CPUS]) == ""
    assert len(told) == 1
    assert "a host without GPUs spends no GPU-hours" in told[0]


def test_time_runs_from_the_beginning_of_the_sweep(ledger: Ledger) -> None:
    told = list[str]()
    counting = spending(ledger, Clock(), told)
    assert counting.over(sweep(hours=10), []) == ""
    assert counting.over(sweep(hours=1e-9), []) == "budget.hours=1e-09 is over"
    assert told == ["budget.hours=1e-09 is over: what runs is saved and ended, the best so far is kept"]
    assert counting.over(sweep(), [TWO_GPUS]) == ""
