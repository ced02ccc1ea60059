"""Trainings and sweeps over two processes, as their user runs them: the same losses as one, and faults survived."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import call, finish, start, wait_for
from sweep_outcomes import assert_told_once
from training_outcomes import assert_run_told_once
from training_samples import World, make_world, result_bytes

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.history import read_metrics

pytestmark = pytest.mark.whole
pytest.importorskip("deepspeed", reason="sharded trials need DeepSpeed")

WORDS = (
    "optim.duration=12 steps",
    "optim.batch_size=5",
    "optim.micro_batch=5",
    "evaluation.every=4 steps",
    "evaluation.max_rows=7",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def command(world: World, *words: str) -> list[str]:
    return ["train", *world.words(*WORDS, *words)]


def curves(home: Path, name: str) -> dict[str, list[tuple[int, float]]]:
    with Ledger.open(home) as ledger:
        row = ledger.get(name)
    assert row.state is RunState.FINISHED
    found = read_metrics(Path(row.folder))
    return {key: [(point.step, point.value) for point in found[key]] for key in ("train/loss", "eval/loss")}


def assert_close(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    for key, points in one.items():
        assert [step for step, _ in points] == [step for step, _ in other[key]]
        for (_, mine), (_, theirs) in zip(points, other[key], strict=True):
            assert mine == pytest.approx(theirs, abs=tolerance), key


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, float]]]:
    """The curves of a LoRA training at stage 3 over two processes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    call(command(world, "name=run", "cluster.ranks=2", "engine=zero3", f"home={folder}"), folder / "log")
    return curves(folder, "run")


def test_two_processes_give_the_losses_of_one(
    world: World, tmp_path: Path, undisturbed: dict[str, list[tuple[int, float]]]
) -> None:
    call(command(world, "name=run", "engine.name=local", f"home={tmp_path}"), tmp_path / "log")
    alone = curves(tmp_path, "run")
    assert_close(undisturbed, alone, 0.02)  # other dropout masks
    words = ["adapter.dropout=0", "engine.precision=fp64"]
    for name, engine in (("one", ["engine.name=local"]), ("two", ["cluster.ranks=2", "engine=zero3"])):
        call(command(world, *words, *engine, f"name={name}", f"home={tmp_path}"), tmp_path / "log")
    assert_close(curves(tmp_path, "two"), curves(tmp_path, "one"), 1e-10)


def test_packs_over_two_ranks_have_the_bits_of_packs_in_one_process_though_a_rank_is_killed(
    world: World, tmp_path: Path
) -> None:
    home, outcomes = tmp_path / "home", []
    for name, words in (("one", ["engine=packed"]), ("two", ["engine=packed_zero3", "cluster.ranks=2"])):
        sweep = {
            "name": name,
            "base": world.words(*WORDS, "optim.duration=60 steps", "evaluation.every=10 steps", *words),
            "space": {"adapter.rank": "choice(2, 4, 8)"},
            "sampler": {"name": "grid"},
        }
        (tmp_path / f"{name}.yaml").write_text(json.dumps(sweep))
        log = tmp_path / f"{name}.log"
        process = start(["sweep", str(tmp_path / f"{name}.yaml"), "--home", str(home)], log)
        if name == "two":
            wait_for(lambda: any(home.glob("two/two-02/checkpoints/step-*")), process, log)
            below = psutil.Process(process.pid).children(recursive=True)
            ranks = [child for child in below if "_HostActor" in "".join(child.cmdline())]
            assert len(ranks) == 2
            ranks[1].kill()
        finish(process, log)
        trials = [home / name / f"{name}-{number:02}" for number in range(3)]
        outcomes.append([(read_metrics(trial)["train/loss"], result_bytes(trial)) for trial in trials])
    assert "the host was lost" in log.read_text() or "is gone" in log.read_text()
    for one, two in zip(*outcomes, strict=True):
        assert [(point.step, point.value) for point in one[0]] == [(point.step, point.value) for point in two[0]]
        assert one[1] == two[1]
    assert_told_once(home, "two")


@pytest.mark.thorough
@pytest.mark.parametrize("whom", ["a rank", "their starter"])
def test_a_killed_rank_is_replaced_and_a_killed_starter_takes_all_along_and_both_runs_end_with_the_same_bits(
    world: World, tmp_path: Path, undisturbed: dict[str, list[tuple[int, float]]], whom: str
) -> None:
    log = tmp_path / "log"
    words = command(world, "name=run", "cluster.ranks=2", "engine=zero3", f"home={tmp_path}")
    process = start(words, log)
    wait_for(lambda: any((tmp_path / "run" / "checkpoints").glob("step-*")), process, log)
    ranks = [each.pid for each in psutil.Process(process.pid).children() if "ftcluster" in " ".join(each.cmdline())]
    assert len(ranks) == 2
    os.kill(process.pid if whom == "their starter" else ranks[0], signal.SIGKILL)
    code = process.wait(120)
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, ranks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, ranks)), "ranks outlive their starter"
    if whom == "a rank":
        assert code == 0, log.read_text()[-3000:]
        assert "goes on from its newest checkpoint in another group" in log.read_text()
    else:
        call(["train", "--resume", "run", "--home", str(tmp_path)], tmp_path / "again")
    assert curves(tmp_path, "run") == undisturbed
    assert_run_told_once(tmp_path / "run")
