"""A training whose memory runs out goes on with smaller micro-batches, to the bits of one that began with them.

The kernel really refuses memory: the process lowers its own limit around passes (``short_of_memory``). A pass of 8 rows
takes some 250 MiB, one of 4 rows half of it, and so on.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from programs import call
from training_samples import World, curves, result_bytes

from ftcluster.config.environment import child_environment
from ftcluster.contracts.trial import RunState
from ftcluster.errors import TrialError
from ftcluster.ledger.store import Ledger
from ftcluster.models.tiny import create_tiny_model
from ftcluster.tracking.records import SPOOL, read_lines

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
NAME = "lora-sft"
SHORT = (
    "optim.duration=2 steps",
    "optim.batch_size=8",
    "evaluation.every=2 steps",
    "evaluation.max_rows=2",
    "adapter.dropout=0",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Many thin layers and long rows: passes that need much memory and little time."""
    made = World(tmp_path_factory.mktemp("world"))
    draw = random.Random(5)
    lines = [[" ".join(str(draw.randint(1, 99)) for _ in range(count)) for count in (90, 60)] for _ in range(24)]
    rows = [{"question": question, "answer": answer} for question, answer in lines]
    made.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [" ".join(row.values()) for row in rows]
    create_tiny_model(
        made.model, texts, hidden_size=32, layers=24, heads=4, kv_heads=2, vocabulary=300, max_length=1024
    )
    return made


def short_of_memory(first: int, mib: int, arguments: list[str], log: Path, *options: str) -> tuple[int, str]:
    launcher = Path(__file__).with_name("short_of_memory.py")
    words = [sys.executable, str(launcher), str(first), str(mib), *options, "--", *arguments]
    with log.open("wb") as file:
        done = subprocess.run(
            words,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=False,
            env=child_environment(MALLOC_MMAP_THRESHOLD_="131072"),  # what is freed goes back to the kernel
        )
    return done.returncode, log.read_text()


def tags(run: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in read_lines(run / SPOOL):
        if line.record.get("kind") == "tags":
            found |= line.record["values"]
    return found


def remembered(run: Path) -> tuple[int, int]:
    record = json.loads((run / "memory.json").read_text())
    return record["halved"], record["micro_batch"]


@pytest.mark.thorough
def test_what_does_not_fit_is_halved_before_the_first_step_and_people_are_told(world: World, tmp_path: Path) -> None:
    home, twin = tmp_path / "home", tmp_path / "twin"
    code, text = short_of_memory(1, 190, world.arguments(home, *SHORT, "optim.micro_batch=8"), tmp_path / "log")
    assert code == 0, text[-3000:]
    told = "out of memory with optim.micro_batch=8; it goes on from its newest checkpoint with optim.micro_batch=4"
    assert f"warning: {told}" in text
    run = home / NAME
    assert remembered(run) == (1, 4)
    found = tags(run)
    assert (found["ftcluster.micro_batch"], found["ftcluster.warning"]) == ("optim.micro_batch=4", told)
    log = tmp_path / "twin.log"
    call(world.arguments(twin, *SHORT, "optim.micro_batch=4"), log)
    assert result_bytes(run) == result_bytes(twin / NAME)
    assert curves(run) == curves(twin / NAME)


@pytest.mark.thorough
def test_memory_that_is_gone_later_costs_the_steps_since_the_newest_checkpoint(world: World, tmp_path: Path) -> None:
    """The first pass is tried out, the second is step 1, which is saved; the third does not fit."""
    home = tmp_path / "home"
    arguments = world.arguments(home, *SHORT, "adapter=none", "evaluation.every=1 steps", "optim.micro_batch=8")
    code, text = short_of_memory(3, 150, arguments, tmp_path / "log")
    assert code == 0, text[-3000:]
    assert "it goes on from its newest checkpoint with optim.micro_batch=4" in text
    run = home / NAME
    assert remembered(run) == (1, 4)
    assert [step for step, _ in curves(run)["train/loss"]] == [1, 2]
    with Ledger.open(home) as ledger:
        assert ledger.get(NAME).state is RunState.FINISHED


@pytest.mark.thorough
def test_what_does_not_fit_after_two_tries_fails_with_what_was_tried_and_what_would_help(
    world: World, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    arguments = world.arguments(home, *SHORT, "optim.micro_batch=8")
    code, text = short_of_memory(1, 20, arguments, tmp_path / "log")
    assert code == TrialError.exit_code, text[-3000:]
    assert "out of memory with optim.micro_batch=2, after halving it 2 times: " in text
    assert "-> set engine.activation_checkpointing=true" in text
    with Ledger.open(home) as ledger:
        assert ledger.get(NAME).state is RunState.FAILED
    assert remembered(home / NAME) == (2, 2), "who resumes it begins with that"


@pytest.mark.thorough
def test_a_group_of_ranks_does_not_survive_it_and_the_next_one_begins_with_what_fits(
    world: World, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    sharded = (*SHORT, "engine=deepspeed", "engine.stage=0", "adapter=none", "optim.micro_batch=8")
    code, text = short_of_memory(1, 190, world.arguments(home, *sharded), tmp_path / "log")
    assert code == 0, text[-3000:]
    assert remembered(home / NAME) == (1, 4)
    assert tags(home / NAME)["ftcluster.micro_batch"] == "optim.micro_batch=4"
    assert "it goes on from its newest checkpoint with optim.micro_batch=4" in text
    assert [step for step, _ in curves(home / NAME)["train/loss"]] == [1, 2]


@pytest.mark.parametrize("mute", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_a_rank_without_memory_ends_its_group_and_the_next_one_begins_with_what_fits(
    world: World, tmp_path: Path, mute: bool
) -> None:
    """Also where rank 0 never hears why the other one left."""
    home = tmp_path / "home"
    two = (*SHORT, "engine=deepspeed", "engine.stage=0", "cluster.ranks=2", "adapter=none")
    arguments, options = world.arguments(home, *two, "optim.micro_batch=8"), ["--on-ranks", *(["--mute"] * mute)]
    code, text = short_of_memory(1, 100, arguments, tmp_path / "log", *options)
    assert code == 0, text[-3000:]
    run = home / NAME
    assert remembered(run) == (1, 4)
    found = tags(run)
    assert found["ftcluster.micro_batch"] == "optim.micro_batch=4"
    told = "a process of the group is gone: " if mute else "out of memory with optim.micro_batch=8; it goes on from "
    assert told in text
    assert (
        "out of memory with optim.micro_batch=8; it goes on from its newest checkpoint with "
        in found["ftcluster.warning"]
    )
    assert not list(run.glob("shortage-of-rank-*"))
    assert [step for step, _ in curves(run)["train/loss"]] == [1, 2]
