"""A training that is killed, stopped or denied its disk, and resumed, is the undisturbed one to the last bit."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import call, start
from small_disk import mounted
from training_outcomes import assert_run_told_once, the_mlflow_run
from training_samples import STEPS, Curves, World, curves, make_world, result_bytes

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.history import read_metrics

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
NAME = "lora-sft"
KINDS: dict[str, tuple[str, ...]] = {"lora": (), "full": ("adapter=none", "optim.lr=1e-3")}
Oracle = dict[str, tuple[dict[str, bytes], Curves]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    found: Oracle = {}
    for kind, words in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        home, log = folder / "home", folder / "log"
        call(world.arguments(home, *words), log)
        found[kind] = (result_bytes(home / NAME), curves(home / NAME))
        assert_run_told_once(home / NAME)
    return found


def dying(what: str, point: str, count: int, arguments: list[str], log: Path) -> tuple[int, str]:
    """Run a training that signals itself at a point; its return code and what it said."""
    code = start(arguments, log, before=("deaths", "die_at", [what, point, count])).wait(180)
    return code, log.read_text()


def resume(home: Path, log: Path) -> str:
    return call(["train", "--resume", NAME, "--home", str(home)], log)


def state_of(home: Path) -> RunState:
    with Ledger.open(home) as ledger:
        return ledger.get(NAME).state


def assert_undisturbed(home: Path, oracle: tuple[dict[str, bytes], Curves]) -> None:
    assert result_bytes(home / NAME) == oracle[0]
    assert curves(home / NAME) == oracle[1]
    assert state_of(home) is RunState.FINISHED
    assert_run_told_once(home / NAME)
    assert not [path for path in (home / NAME).rglob(".*") if path.name.startswith(".damaged")]


@pytest.mark.parametrize(
    ("kind", "point", "count"),
    [
        ("lora", "optimizer step", 1),
        ("lora", "optimizer step", 9),
        ("lora", "held-out loss", 2),
        ("lora", "manifest of a checkpoint", 2),
        ("lora", "just after a checkpoint", 2),
        ("lora", "publishing the result", 1),
        ("lora", "telling the ledger the end", 1),
        ("full", "optimizer step", 15),
        ("full", "just after a checkpoint", 1),
    ],
)
def test_a_killed_training_resumes_to_the_same_bits_in_the_same_mlflow_run(
    world: World, tmp_path: Path, undisturbed: Oracle, kind: str, point: str, count: int
) -> None:
    home = tmp_path / "home"
    code, text = dying("KILL", point, count, world.arguments(home, *KINDS[kind]), tmp_path / "log")
    assert code == -signal.SIGKILL, text[-3000:]
    assert state_of(home) is RunState.RUNNING
    resume(home, tmp_path / "again")
    assert_undisturbed(home, undisturbed[kind])


@pytest.mark.thorough
def test_a_training_killed_again_and_again_still_arrives(world: World, tmp_path: Path, undisturbed: Oracle) -> None:
    home = tmp_path / "home"
    arguments = world.arguments(home)
    for number, (point, count) in enumerate(
        [("metrics of a step", 4), ("checkpoint", 2), ("optimizer step", 5), ("export", 1)]
    ):
        code, text = dying("KILL", point, count, arguments, tmp_path / f"log{number}")
        assert code == -signal.SIGKILL, text[-3000:]
        arguments = ["train", "--resume", NAME, "--home", str(home)]
    resume(home, tmp_path / "again")
    assert_undisturbed(home, undisturbed["lora"])


def test_a_training_killed_at_a_moment_nobody_chose_resumes_to_the_same_bits(
    world: World, tmp_path: Path, undisturbed: Oracle
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    step = random.Random(os.urandom(8)).randrange(1, STEPS)
    process = start(world.arguments(home), log)
    deadline = time.monotonic() + 120
    while True:
        ended = process.poll() is not None
        if len(read_metrics(home / NAME).get("train/loss", ())) >= step:
            break
        assert not ended, log.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.wait()
    again = tmp_path / "again"
    if state_of(home) is RunState.RUNNING:
        resume(home, again)
    else:  # the machine was so busy that the run ended before the signal came; MLflow may miss its last words
        call(["runs", "sync", "--home", str(home)], again)
    assert_undisturbed(home, undisturbed["lora"])


@pytest.mark.parametrize("what", ["INT", "INT2", "TERM"], ids=["once", "twice", "notice of a spot market"])
def test_ctrl_c_saves_and_the_printed_command_resumes_to_the_same_bits(
    world: World, tmp_path: Path, undisturbed: Oracle, what: str
) -> None:
    home = tmp_path / "home"
    code, text = dying(what, "optimizer step", 8, world.arguments(home), tmp_path / "log")
    assert code == 130, text[-3000:]
    assert "Traceback" not in text
    assert state_of(home) is RunState.INTERRUPTED
    _, run = the_mlflow_run(home / NAME)
    assert run.info.status == "KILLED"
    saved = (home / NAME / "checkpoints" / "step-00000008").is_dir()
    assert saved is (what != "INT2")
    assert f"{NAME} was stopped {'and saved' if saved else 'at once; it goes on from its newest checkpoint'}" in text
    (command,) = [line.split("-> ")[1] for line in text.splitlines() if "-> ftcluster train --resume" in line]
    again = tmp_path / "again"
    call(shlex.split(command)[1:], again)
    assert_undisturbed(home, undisturbed["lora"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 3 MB; needs the right to mount."""
    with mounted(tmp_path / "disk", "3m") as place:
        yield place


def test_a_disk_that_fills_up_is_told_and_the_run_resumes_when_there_is_space(
    world: World, tmp_path: Path, small_disk: Path, undisturbed: Oracle
) -> None:
    home = small_disk / "home"
    store = tmp_path / "mlflow.db"
    arguments = world.arguments(home, "cluster.storage_patience=0", f"tracking.uri=sqlite:///{store}")
    log = tmp_path / "log"
    code, text = dying("KILL", "optimizer step", 8, arguments, log)
    assert code == -signal.SIGKILL, text[-3000:]
    ballast = small_disk / "ballast"
    free = shutil.disk_usage(small_disk).free
    ballast.write_bytes(b"x" * (free - 60_000))
    words = ["train", "--resume", NAME, "--home", str(home)]
    text = call(words, log, expected=6)
    assert "Traceback" not in text
    assert str(home) in text
    assert "free space" in text or "free some space" in text
    assert not list((home / NAME / "checkpoints").glob(".writing-*"))
    ballast.unlink()
    call(words, log)
    assert result_bytes(home / NAME) == undisturbed["lora"][0]
    assert curves(home / NAME) == undisturbed["lora"][1]
    assert state_of(home) is RunState.FINISHED
    assert_run_told_once(home / NAME, store=store)
