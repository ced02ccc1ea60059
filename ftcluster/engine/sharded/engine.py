"""The sharded engine as a training loop sees it: on rank 0, one process like any other engine's.

    rank 0   engine = ShardedEngine(ranks, replica)   ... train ...   engine.dismiss()
    others   ranks.follow(replica)

Each call is handed to all ranks and ends when all have carried it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.distributed import is_initialized

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.contracts.ports import AdapterSettings, TrialOpening
from ftcluster.engine.memory import Passes
from ftcluster.engine.sharded.pace import Slowest, slowest
from ftcluster.engine.sharded.ranks import RankLost, Ranks
from ftcluster.errors import first_line


class ShardedEngine:
    """See ``ftcluster.contracts.ports.Engine`` for what each method promises, ``Ranks.lead`` for further errors."""

    def __init__(self, ranks: Ranks, replica: object) -> None:
        """``replica`` is rank 0's ``replica.Replica``, whose module needs DeepSpeed; the others follow with theirs."""
        self._ranks, self._replica = ranks, replica
        self._slots: set[int] = set()
        self.lanes: Mapping[int, int] = {}

    @property
    def slots(self) -> list[int]:
        """Those that hold a trial."""
        return sorted(self._slots)

    def open(self, trial: TrialOpening) -> None:
        self._all("open", trial)
        self._slots.add(trial.slot)

    def open_saved(self, slot: int, folder: Path) -> None:
        """An adapter to be evaluated and asked, see ``LocalEngine``."""
        self._all("open_saved", slot, folder)
        self._slots.add(slot)

    def forward_backward(
        self, batch: Batch, normalisers: Mapping[int, float], clock: Mapping[int, tuple[int, int]]
    ) -> dict[int, LossSums]:
        sums: dict[int, LossSums] = self._all("forward_backward", batch, dict(normalisers), dict(clock))
        return sums

    def try_out(self, batch: Batch) -> None:
        self._all("try_out", batch)

    def telemetry(self, measure: Callable[[], Mapping[str, float]]) -> list[dict[str, float]]:
        """What each rank measures of itself; ``measure`` travels to them by its name."""
        found: list[dict[str, float]] = self._all("telemetry", measure)
        return found

    def evaluate(self, batch: Batch) -> list[LossSums]:
        sums: list[LossSums] = self._all("evaluate", batch)
        return sums

    def generate(
        self, slot: int, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: Sequence[int] = ()
    ) -> list[list[int]]:
        answers: list[list[int]] = self._all("generate", slot, list(prompts), max_new_tokens, tuple(stops))
        return answers

    def step(self, slot: int, lr: float) -> float:
        return self.step_many({slot: lr})[slot]

    def step_many(self, rates: Mapping[int, float]) -> dict[int, float]:
        norms: dict[int, float] = self._all("step_many", dict(rates))
        return norms

    def slowest(self) -> Slowest | None:
        """Which rank the others wait for, once enough passes have shown it."""
        return slowest(self._ranks.hosts, self._all("stints"))

    def save(self, slot: int, folder: Path) -> None:
        self._all("save", slot, folder)

    def export(self, slot: int, folder: Path) -> Any:
        return self._all("export", slot, folder)

    def load(self, slot: int, folder: Path) -> None:
        self._all("load", slot, folder)

    def close(self, slot: int) -> None:
        if is_initialized():  # a group that lost a rank holds nothing any more
            self._all("close", slot)
        self._slots.discard(slot)

    def dismiss(self) -> None:
        """Let the other ranks go; the group stays for another engine."""
        self._ranks.dismiss()

    def _all(self, order: str, *arguments: Any) -> Any:
        return self._ranks.lead(self._replica, order, *arguments)


class ShardedPackEngine(ShardedEngine):
    """Trials that train together over a sharded base, each on a rank of its own; the replicas are ``PackedReplica``."""

    def __init__(self, ranks: Ranks, replica: object) -> None:
        super().__init__(ranks, replica)
        self.lanes: dict[int, int] = {}  # each trial's rank

    def open(self, trial: TrialOpening) -> None:
        if trial.slot in self._slots or trial.slot < 0:
            raise ValueError(f"slot {trial.slot} is taken or negative")
        if trial.adapter is None:
            raise ValueError("a full fine-tune changes the base that packed trials share")
        owner = self._next_owner
        self._all("open", trial, owner)
        self._slots.add(trial.slot)
        self.lanes[trial.slot] = owner

    def close(self, slot: int) -> None:
        super().close(slot)
        self.lanes.pop(slot, None)

    def forward_backward(
        self, batch: Batch, normalisers: Mapping[int, float], clock: Mapping[int, tuple[int, int]]
    ) -> dict[int, LossSums]:
        try:
            return super().forward_backward(batch, normalisers, clock)
        except (RankLost, ValueError):
            raise
        except Exception as error:
            if len(set(batch.slots)) == 1:
                raise
            # Whose fault it was shows when each goes on alone; the group is gone.
            remedy = "each of its trials goes on from its newest checkpoint, alone in a group"
            raise RankLost(f"a pass of several trials failed: {first_line(error)}", remedy=remedy) from error

    @property
    def _next_owner(self) -> int:
        """The rank with the fewest trials."""
        owners = list(self.lanes.values())
        return min(range(self._ranks.size), key=lambda rank: (owners.count(rank), rank))

    def cost(self, adapter: AdapterSettings) -> int:
        """Bytes that a trial with such an adapter would take on the rank that it would be on."""
        costs: list[int] = self._all("costs", adapter)
        return costs[self._next_owner]

    def passes(self, adapter: AdapterSettings, longest: int) -> Passes:
        """What training passes need, of the rank that needs most."""
        found: list[Passes] = self._all("measure", adapter, longest)
        return Passes(max(each.always for each in found), max(each.per_token for each in found))

    def free(self, limit: int) -> int:
        """Bytes that a rank may still take, where they are fewest."""
        left: list[int] = self._all("free", limit)
        return min(left)
