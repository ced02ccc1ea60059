"""Slow ranks are named at every stage, also where the ranks wait for one another in each layer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sharded_group import Group, Making

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening

pytestmark = pytest.mark.slow

LORA = AdapterSettings(rank=4, alpha=8.0)
NOTHING_KEPT = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}


@pytest.fixture(scope="module")
def two() -> Iterator[Group]:
    group = Group(2)
    yield group
    group.kill()


def _batch() -> Batch:
    lengths = (6, 7, 5, 6)
    tokens_T = torch.arange(sum(lengths)) % 50 + 4
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    return Batch(tokens_T, tokens_T, torch.ones(sum(lengths)), positions_T, lengths, (0,) * len(lengths))


@pytest.mark.parametrize(
    ("adapter", "stage", "rank"),
    [(LORA, 0, 1), (LORA, 3, 0), (None, 2, 1), (None, 3, 0)],
    ids=["lora-0", "lora-3", "full-2", "full-3"],
)
def test_a_rank_that_is_slow_in_every_layer_is_named(
    two: Group, tiny_qwen2: Path, adapter: AdapterSettings | None, stage: int, rank: int
) -> None:
    batch = _batch()
    engine = two.engine(Making(tiny_qwen2, settings={"stage": stage}, own=NOTHING_KEPT if stage == 3 else {}))
    engine.open(TrialOpening(0, 3, OptimizerSettings(), adapter))
    two.ask("slow_down", rank, engine.number, 0, 0.05)
    for step in range(6):
        engine.forward_backward(batch, {0: batch.weight(0)}, {0: (step, 0)})
        engine.step(0, 1e-3)
    found = engine.slowest()
    two.forget()
    assert found.slow
    assert found.rank == rank
    assert found.host == socket.gethostname()
