"""What a sweep has spent of its budget: GPU-hours, money, time since it began.

A host counts from when it is up until it ends, whether a trial runs on it or not: that is what it is paid for. What was
spent is kept in the sweep's row of the ledger, so that a resumed sweep goes on counting; a driver that is killed
forgets the last seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from ftcluster.cluster.placement import Resources
from ftcluster.cluster.witnesses import Witnesses
from ftcluster.config.schema import BudgetConfig, SweepConfig
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger

_KEEP = 5.0  # seconds between notes in the ledger
_HOUR = 3600.0
CPU, GPU = "cpu", "gpu"


class Reserved(Protocol):
    """A host: what it reserves, and the nodes of its ranks."""

    @property
    def resources(self) -> Resources: ...

    @property
    def nodes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Spent:
    """What hosts that are up have cost."""

    gpu_hours: float = 0.0
    money: float = 0.0


def spent(sweep: RunRow) -> Spent:
    """As the ledger has it."""
    return Spent(**sweep.config.get("spent", {}))


def price_of(prices: Mapping[str, float], gpu: str) -> float:
    """Of an hour of a GPU of this name: by the part of the name that is given, else that of ``gpu``, else the highest.

    A name of "" is a host without GPUs, and costs what ``cpu`` says.
    """
    if not gpu:
        return prices.get(CPU, 0.0)
    known = [price for part, price in prices.items() if part not in (CPU, GPU) and part.lower() in gpu.lower()]
    fallback = prices.get(GPU, max((price for part, price in prices.items() if part != CPU), default=0.0))
    return known[0] if known else fallback


class Spending:
    """Counts for one driver; ``gpus`` tells the names of the GPUs of every node, by the node's id."""

    def __init__(
        self,
        ledger: Ledger,
        sweep: str,
        tell: Callable[[str], None],
        clock: Callable[[], float],
        gpus: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self._ledger, self._sweep, self._tell, self._clock = ledger, sweep, tell, clock
        self._gpus = gpus or _gpus_of_nodes
        self._names: dict[str, str] = {}  # of GPUs, by node
        self._told = False
        row = ledger.get(sweep)
        self._spent, self._began = spent(row), row.started_at or time.time()
        self._at = self._kept = clock()

    def over(self, spec: SweepConfig, hosts: Sequence[Reserved]) -> str:
        """Count until now; why the sweep has to end, or nothing.

        Raises:
            StoreError: the ledger cannot be written.
        """
        budget = spec.budget
        if budget.hours and time.time() - self._began >= budget.hours * _HOUR:
            return self._ended(f"budget.hours={budget.hours:g} is over")
        if not budget.gpu_hours and not budget.money:
            return ""
        now = self._clock()
        hours, self._at = (now - self._at) / _HOUR, now
        for host in hosts:
            self._count(host, hours, budget.price)
        out = self._limit(budget)
        if out or now - self._kept >= _KEEP:
            self._kept = now
            self._ledger.edit(self._sweep, self._noted)
        return self._ended(out)

    def _ended(self, reason: str) -> str:
        if reason:
            self._tell(f"{reason}: what runs is saved and ended, the best so far is kept")
        return reason

    def _noted(self, row: RunRow) -> Mapping[str, Any]:
        return {**row.config, "spent": asdict(self._spent)}

    def _count(self, host: Reserved, hours: float, prices: Mapping[str, float]) -> None:
        each, money = host.resources.gpus, 0.0
        if each == 0 and not self._told and not prices.get(CPU):
            self._told = True
            self._tell(
                "a host without GPUs spends no GPU-hours; give budget.hours, or budget.price with a price of cpu"
            )
        if prices:
            nodes = host.nodes or ("",) * host.resources.ranks
            money = sum((each or 1.0) * price_of(prices, self._name(node) if each else "") for node in nodes) * hours
        gpu_hours = self._spent.gpu_hours + each * host.resources.ranks * hours
        self._spent = replace(self._spent, gpu_hours=gpu_hours, money=self._spent.money + money)

    def _name(self, node: str) -> str:
        if node and node not in self._names:
            self._names |= {node: GPU, **self._gpus()}
        return self._names.get(node, GPU)

    def _limit(self, budget: BudgetConfig) -> str:
        if budget.gpu_hours and self._spent.gpu_hours >= budget.gpu_hours:
            return f"budget.gpu_hours={budget.gpu_hours:g} are spent"
        if budget.money and self._spent.money >= budget.money:
            return f"budget.money={budget.money:g} is spent"
        return ""


def _gpus_of_nodes() -> dict[str, str]:
    """Of nodes with GPUs of several kinds the name of the first."""
    with Witnesses() as witnesses:
        nodes = witnesses.nodes()
    found = {node.id: [gpu.name for gpu in node.inventory.gpus.gpus] for node in nodes if node.inventory}
    return {node: names[0] for node, names in found.items() if names}
