"""Ranks that hang or vanish while they train: the run goes on by itself, and its result is the undisturbed one's."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import pytest
from programs import call, finish, start, wait_for
from sweep_outcomes import assert_told_once, outcome
from training_outcomes import assert_run_told_once
from training_samples import World, curves, make_world, result_bytes

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.history import read_metrics
from ftcluster.training.attempts import RETRIES

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
pytest.importorskip("deepspeed", reason="sharded trials need DeepSpeed")
NAME = "lora-sft"
# DeepSpeed keeps what it knows of a group in its modules, and most for a full fine-tune.
KINDS: dict[str, tuple[str, ...]] = {
    "lora": ("cluster.ranks=2", "engine=zero3"),
    "full": ("cluster.ranks=2", "adapter=none", "optim.lr=1e-3", "engine.name=deepspeed", "engine.stage=2"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a kind's run that nothing happened to."""

    @cache
    def of(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed")
        call(world.arguments(folder / "home", *KINDS[kind]), folder / "log")
        return folder / "home" / NAME

    return of


def process_of(rank: int, starter: int) -> int | None:
    module = "ftcluster.training.companions" if rank else "ftcluster.training.leading"
    for child in psutil.Process(starter).children():
        with suppress(psutil.Error):  # it ended meanwhile
            if module in child.cmdline():
                return child.pid
    return None


@pytest.mark.parametrize(("kind", "rank"), [("lora", 1), pytest.param("full", 0, marks=pytest.mark.thorough)])
def test_a_rank_that_hangs_is_replaced_and_the_result_has_the_bits_of_an_undisturbed_run(
    world: World, tmp_path: Path, undisturbed: Callable[[str], Path], kind: str, rank: int
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    process = start(world.arguments(home, *KINDS[kind], "cluster.hang_after=8"), log)
    wait_for(lambda: any((home / NAME / "checkpoints").glob("step-*")), process, log)
    stopped = process_of(rank, process.pid)
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    told = finish(process, log)

    assert f"rank {rank} on " in told
    assert ("did not answer for 0:08", "gave no sign of life")[rank == 0] in told
    assert "another group" in told
    assert not psutil.pid_exists(stopped)
    # Where the other one waited: for its answer to an order, for the order itself, or to hand the order over.
    file, place = ("rank-1.log", "in follow") if rank == 0 else ("rank-0.stacks", "in lead")
    assert place in (home / NAME / file).read_text()
    with Ledger.open(home) as ledger:
        assert ledger.get(NAME).state is RunState.FINISHED
    assert result_bytes(home / NAME) == result_bytes(undisturbed(kind))
    assert curves(home / NAME) == curves(undisturbed(kind))
    assert_run_told_once(home / NAME)


@pytest.mark.thorough
def test_a_rank_that_others_wait_for_is_named_once_and_stands_in_the_records(world: World, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    words = (*KINDS["lora"], "evaluation.every=4 steps")
    process = start(world.arguments(home, *words), log)
    wait_for(lambda: any((home / NAME / "checkpoints").glob("step-*")), process, log)
    slow = process_of(1, process.pid)
    assert slow is not None
    while process.poll() is None and "they wait" not in log.read_text():  # nothing else could slow the other one so
        with suppress(ProcessLookupError):
            os.kill(slow, signal.SIGSTOP)
            time.sleep(0.3)
            os.kill(slow, signal.SIGCONT)
        time.sleep(0.01)
    told = finish(process, log)
    assert told.count("they wait for it") == 1
    assert "rank 1 on " in told
    assert max(point.value for point in read_metrics(home / NAME)["system/slowest_rank_ratio"]) > 1.5


def test_ranks_save_on_notice_and_go_on_later_to_the_same_bits(
    world: World, tmp_path: Path, undisturbed: Callable[[str], Path]
) -> None:
    """SIGTERM with time to save, as spot markets and schedulers send it."""
    home, log = tmp_path / "home", tmp_path / "log"
    process = start(world.arguments(home, *KINDS["lora"]), log)
    wait_for(lambda: any((home / NAME / "checkpoints").glob("step-*")), process, log)
    process.send_signal(signal.SIGTERM)
    assert "was stopped and saved" in finish(process, log, 130)
    with Ledger.open(home) as ledger:
        assert ledger.get(NAME).state is RunState.INTERRUPTED
    call(["train", "--resume", NAME, "--home", str(home)], log)
    assert result_bytes(home / NAME) == result_bytes(undisturbed("lora"))
    assert curves(home / NAME) == curves(undisturbed("lora"))
    assert_run_told_once(home / NAME)


@pytest.mark.thorough
def test_a_run_whose_ranks_are_lost_again_and_again_is_left_to_be_resumed(world: World, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    process = start(world.arguments(home, *KINDS["lora"]), log)
    killed: set[int] = set()
    while process.poll() is None:
        rank = process_of(1, process.pid)
        if rank is not None and rank not in killed:
            os.kill(rank, signal.SIGKILL)
            killed.add(rank)
        time.sleep(0.1)
    told = finish(process, log, 130)
    assert len(killed) == 1 + RETRIES
    assert told.count("rank 1 on ") == 1 + RETRIES
    assert "was ended by SIGKILL" in told
    assert f"ftcluster train --resume {NAME}" in told
    with Ledger.open(home) as ledger:
        assert ledger.get(NAME).state is RunState.INTERRUPTED


@pytest.mark.thorough
def test_a_host_of_a_sweep_with_a_rank_that_hangs_is_replaced_and_its_trial_ends_as_if_undisturbed(
    world: World, tmp_path: Path
) -> None:
    sweep = {
        "name": "one",
        "base": world.words(*KINDS["lora"], "cluster.hang_after=10"),
        "space": {"adapter.rank": "choice(4)"},
        "sampler": {"name": "grid"},
        "budget": {"trials": 1},
    }
    (tmp_path / "one.yaml").write_text(json.dumps(sweep))
    command = ["sweep", str(tmp_path / "one.yaml"), "--home"]
    call([*command, str(tmp_path / "twin")], tmp_path / "twin.log")
    home, log = tmp_path / "home", tmp_path / "log"
    process = start([*command, str(home)], log)
    wait_for(lambda: any(home.glob("one/*/checkpoints/step-*")), process, log)
    children = psutil.Process(process.pid).children(recursive=True)
    ranks = [child for child in children if "_HostActor" in "".join(child.cmdline())]
    assert len(ranks) == 2
    (other,) = [rank for rank in ranks if not any("spool" in file.path for file in rank.open_files())]
    other.suspend()
    told = finish(process, log)
    assert "rank 1 on " in told
    assert not other.is_running()
    assert outcome(home, "one") == outcome(tmp_path / "twin", "one")
    assert_told_once(home, "one")
    (stacks,) = home.glob("one/*/rank-0.stacks")  # a stopped rank cannot write its own
    assert "in lead" in stacks.read_text()
