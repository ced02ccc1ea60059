"""Which trials may join those that train on a host: they share its base, and memory is enough for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch

from ftcluster.config.schema import RunConfig
from ftcluster.engine.memory import Passes, free, measure_passes
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.sharded.engine import ShardedPackEngine
from ftcluster.training.bench import Bench, adapter_settings, opened
from ftcluster.training.session import loader_of
from ftcluster.units import format_bytes

# Tokens of a pass that trials share, at most: on a CPU larger ones fall out of its caches.
BUDGET_CPU, BUDGET_CUDA = 1024, 8192
_SURE = 0.9  # of the free memory: what is predicted was measured on other documents
_LONGEST = 256  # tokens of a document that is measured with, at most


class Admission:
    """Asked before a trial is taken in beside others; ``budget`` is the most tokens of a pass that trials share."""

    def __init__(self, bench: Bench, budget: int, free: Callable[[torch.device, int], int] = free) -> None:
        self._bench, self._budget, self._free = bench, budget, free
        self._measured: WeakKeyDictionary[PackedEngine | ShardedPackEngine, Passes] = WeakKeyDictionary()

    def objection(self, wanted: tuple[RunConfig, str], here: Sequence[tuple[RunConfig, str]]) -> str:
        """Why a trial (its config and prepared data) must not join those that are here; empty if it may."""
        if not here:
            return ""
        config = wanted[0]
        if not self._bench.holds(config):
            return "it trains on another base than the trials there"
        engine = self._bench.engine(config)
        if not isinstance(engine, PackedEngine | ShardedPackEngine):
            return "its engine trains one trial at a time"
        adapter, limit = adapter_settings(config), round(config.cluster.memory_gib * 2**30)
        state = engine.cost(adapter)
        left = engine.free(limit) if isinstance(engine, ShardedPackEngine) else self._free(engine.base.device, limit)
        if state <= _SURE * left and engine not in self._measured:
            longest = min(_LONGEST, int(opened(wanted[1]).train.lengths.max()))
            self._measured[engine] = (
                engine.passes(adapter, longest)
                if isinstance(engine, ShardedPackEngine)
                else measure_passes(engine, adapter, longest)
            )
        tokens = max(self._budget, *(widest(*one) for one in (wanted, *here)))
        passes = self._measured[engine].of(tokens) if engine in self._measured else 0
        if state + passes <= _SURE * left:
            return ""
        return (
            f"it needs {format_bytes(state)} for its adapter and optimizer and {format_bytes(passes)} for passes of "
            f"{tokens:,} tokens, and {format_bytes(max(0, left))} is free"
        )


def widest(config: RunConfig, prepared: str) -> int:
    """The most tokens of a micro-batch."""
    return loader_of(config, opened(prepared)).most_tokens
