"""Trials that are too large for their GPUs are found before a sweep starts, and it says what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftcluster.cluster.inventory import Gpu
from ftcluster.cluster.placement import Resources
from ftcluster.config.schema import ClusterConfig, RunConfig
from ftcluster.errors import ConfigError, StoreError
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.bundles import swept_keys
from ftcluster.sweep.control import unfinished
from ftcluster.sweep.forecast.beginning import made_ready
from ftcluster.sweep.forecast.disk import Disk, refuse_full_disk
from ftcluster.sweep.forecast.fitting import room_of
from ftcluster.sweep.launch import register, stored_plan
from ftcluster.sweep.opening import Opening
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.proposals import next_trial

Planned = Callable[..., SweepPlan]

# A step of AdamW over the tables of rank 64 takes 3.7 MiB; passes of 4 rows at smaller ranks 1.5, of 1 row 0.6.
SPACE: dict[str, Any] = {
    "space": {"adapter.rank": "choice(2, 64)", "optim.micro_batch": "choice(1, 4)"},
    "sampler": {"name": "grid"},
}
LIMIT = "cluster.memory_gib=0.001"  # 1.02 MiB


def ready(plan: SweepPlan) -> tuple[SweepPlan, list[str]]:
    told: list[str] = []
    with Opening(plan.base, plan.trials, swept_keys(plan.spec)) as opening:
        return made_ready(plan, opening, told.append), told


def trials(plan: SweepPlan) -> list[tuple[int, int, int]]:
    """Rank, micro-batch as it was proposed and micro-batch as it is computed."""
    found: list[Any] = []
    while (made := next_trial(plan, Path("s"), found, {})) is not None:
        assert not made[1]
        found.append(made[0])
    return [
        (row.overrides["adapter.rank"], row.overrides["optim.micro_batch"], row.config["optim"]["micro_batch"])
        for row in found
    ]


def test_what_is_too_large_is_computed_in_smaller_passes_or_left_out(planned: Planned) -> None:
    plan, told = ready(planned(SPACE, LIMIT))
    assert trials(plan) == [(2, 1, 1), (2, 4, 2)]
    assert plan.trials == 2
    assert [text.partition(" takes ")[0] for text in told] == [
        "too large: adapter.rank=2, optim.micro_batch=4",
        "too large: adapter.rank=64, optim.micro_batch=1",
        "too large: adapter.rank=64, optim.micro_batch=4",
    ]
    assert told[0].endswith("and cluster.memory_gib allows 1.0 MiB: computed with optim.micro_batch=2")
    assert told[1].endswith(": left out")


def test_a_sweep_that_goes_on_has_the_same_trials_wherever_it_does(planned: Planned, tmp_path: Path) -> None:
    plan, _ = ready(planned(SPACE, LIMIT))
    with Ledger.open(tmp_path) as ledger:
        row = register(plan, ledger)
        found = unfinished(ledger.runs("sweep"), plan.spec)
        assert found is not None
        assert found.name == row.name
    assert trials(stored_plan(row)) == trials(plan)


def test_trials_can_be_left_out_instead(planned: Planned) -> None:
    plan, told = ready(planned({**SPACE, "too_large": "cut"}, LIMIT))
    assert trials(plan) == [(2, 1, 1)]
    assert len(told) == 3


def test_or_the_sweep_refused_with_all_of_them(planned: Planned) -> None:
    with pytest.raises(ConfigError) as caught:
        ready(planned({**SPACE, "too_large": "refuse"}, LIMIT))
    assert len(caught.value.problems) == 3
    assert caught.value.problems[1].startswith("adapter.rank=64, optim.micro_batch=1 takes 3.7 MiB, and cluster")
    assert "too_large=cut leaves them out" in caught.value.remedy


def test_nothing_is_left_out_silently_that_somebody_named(planned: Planned) -> None:
    named = {**SPACE, "always": {"wide": ["adapter.rank=64"]}}
    with pytest.raises(ConfigError, match=r"adapter\.rank=64, optim\.micro_batch=2 takes 3\.7 MiB"):
        ready(planned(named, LIMIT))


def test_a_sweep_of_which_nothing_fits_does_not_start(planned: Planned) -> None:
    with pytest.raises(ConfigError, match="takes") as caught:
        ready(planned({"space": {"optim.micro_batch": "choice(1, 4)"}}, LIMIT, "adapter.rank=64"))
    assert "ftcluster plan" in caught.value.remedy


def test_without_a_limit_everything_fits(planned: Planned) -> None:
    plan, told = ready(planned(SPACE))
    assert (len(trials(plan)), told) == (4, [])


def test_room_is_that_of_the_smallest_gpu_a_trial_may_get_or_what_it_is_allowed() -> None:
    cards = [Gpu(0, "a", "Big", 80 * 2**30), Gpu(1, "b", "Small", 24 * 2**30)]
    base, limited = RunConfig(), RunConfig(cluster=ClusterConfig(memory_gib=10))
    assert (room_of(base, Resources(1, 1), cards).bytes, room_of(base, Resources(1, 1), cards).named) == (
        24 * 2**30,
        "Small",
    )
    assert room_of(base, Resources(1, 0.5), cards).bytes == 12 * 2**30
    assert room_of(limited, Resources(1, 1), cards).named == "cluster.memory_gib"
    assert room_of(base, Resources(1, 0), cards).bytes == 0


def test_a_sweep_that_could_fill_the_disk_does_not_start(planned: Planned, tmp_path: Path) -> None:
    plan = planned(SPACE)
    refuse_full_disk(plan, Disk(1, 1, 1))
    with pytest.raises(StoreError, match=r"can take 1024\.0 TiB at a time, and .* are free") as caught:
        refuse_full_disk(plan, Disk(2**50, 1, 1))
    assert caught.value.where == str(tmp_path)
    assert "engine.keep_checkpoints=1" in caught.value.remedy
