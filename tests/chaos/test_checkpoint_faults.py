"""Checkpoints that are killed at every write, find no space, or are harmed later: what was whole before is used.

Each training is the real command, of LoRA and of full fine-tunes, in one process and over two. The oracle is the
same training in peace.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import call, finish, start, wait_for
from small_disk import mounted
from training_outcomes import assert_run_told_once
from training_samples import Curves, World, curves, make_world, result_bytes

from ftcluster.contracts.trial import RunState
from ftcluster.engine.checkpoint import damage
from ftcluster.ledger.store import Ledger

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
NAME = "run"
SHORT = ("optim.duration=8 steps", "evaluation.every=2 steps", "evaluation.max_rows=2", f"name={NAME}")
FULL = ("adapter=none", "optim.lr=1e-3")
PAIR = ("cluster.ranks=2", "engine=zero3", "optim.duration=4 steps", "evaluation.every=1 steps")
KINDS: dict[str, tuple[str, ...]] = {
    "packed LoRA": (),
    "LoRA alone": ("engine.name=local",),
    "full": FULL,
    "LoRA over two ranks": PAIR,
    "full over two ranks": (*FULL, *PAIR),
}
EACH = {"packed LoRA": 1, "LoRA alone": 5, "full": 3}  # writes of a checkpoint between one death and the next
PAIRS = ["LoRA over two ranks", "full over two ranks"]
MANY = 100  # more than all checkpoints of a training have
ONE = 40  # more than one checkpoint has, and fewer than two
Result = tuple[dict[str, bytes], Curves]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def twin(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """Of a kind; trained when it is first asked for."""
    found: dict[str, Result] = {}

    def of(kind: str) -> Result:
        if kind not in found:
            folder = tmp_path_factory.mktemp("twin")
            call(beginning(world, folder / "home", kind), folder / "log")
            found[kind] = result(folder / "home")
        return found[kind]

    return of


def beginning(world: World, home: Path, kind: str, *more: str) -> list[str]:
    return world.arguments(home, *SHORT, *KINDS[kind], *more)


def resuming(home: Path) -> list[str]:
    return ["train", "--resume", NAME, "--home", str(home)]


def burning(words: list[str], log: Path, fuse: int) -> int:
    """Train until the fuse has burnt; the exit code."""
    return start(words, log, before=("deaths", "burn", [fuse])).wait(180)


def result(home: Path) -> Result:
    with Ledger.open(home) as ledger:
        assert ledger.get(NAME).state is RunState.FINISHED
    return result_bytes(home / NAME), curves(home / NAME)


def checkpoints(home: Path) -> list[Path]:
    """Those that would be loaded, the oldest first."""
    return sorted((home / NAME / "checkpoints").glob("step-*"))


def variants(kinds: Iterable[str]) -> list[Any]:
    """Kinds to test, of which some add little to the others."""
    thorough = ("LoRA alone", "full", "LoRA over two ranks", "full over two ranks")
    return [pytest.param(kind, marks=pytest.mark.thorough) if kind in thorough else kind for kind in kinds]


@pytest.mark.parametrize("kind", variants(EACH))
def test_a_training_killed_at_each_write_of_a_checkpoint_in_turn_arrives_at_the_same_bits(
    world: World, twin: Callable[[str], Result], tmp_path: Path, kind: str
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    words, fuse = beginning(world, home, kind), 1
    while (code := burning(words, log, fuse)) == -signal.SIGKILL:
        fuse += EACH[kind]
        assert fuse < MANY
        assert not [problem for folder in checkpoints(home) for problem in damage(folder)]
        words = resuming(home)
    assert code == 0, log.read_text()[-3000:]
    assert fuse > 20  # a folder made, files, their way to the disk, a manifest, a name
    assert result(home) == twin(kind)
    assert_run_told_once(home / NAME)


@pytest.mark.parametrize("kind", variants(PAIRS))
def test_ranks_killed_while_they_save_arrive_at_the_same_bits(
    world: World, twin: Callable[[str], Result], tmp_path: Path, kind: str
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    words = beginning(world, home, kind)
    for fuse in (2, 7):  # beside the first files of one checkpoint, and among those of a later one
        assert burning(words, log, fuse) == -signal.SIGKILL, log.read_text()[-3000:]
        words = resuming(home)
    call(words, log)
    assert result(home) == twin(kind)
    assert_run_told_once(home / NAME)


def killed_with(words: list[str], home: Path, log: Path, count: int) -> list[Path]:
    """Train and be killed, while the next one is written, until so many checkpoints are whole."""
    while len(checkpoints(home)) < count:
        assert burning(words, log, ONE) == -signal.SIGKILL, log.read_text()[-3000:]
        words = resuming(home)
    return checkpoints(home)


def truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["packed LoRA", pytest.param("full", marks=pytest.mark.thorough)])
def test_whatever_harms_the_newest_checkpoint_it_is_put_aside_and_the_one_before_leads_to_the_same_bits(
    world: World, twin: Callable[[str], Result], tmp_path: Path, kind: str
) -> None:
    home, log, kept = tmp_path / "home", tmp_path / "log", tmp_path / "kept"
    before, newest = killed_with(beginning(world, home, kind), home, log, 2)
    shutil.copytree(home, kept)
    for harm in (truncated, flipped, Path.unlink):
        for name in sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file()):
            shutil.rmtree(home)
            shutil.copytree(kept, home)
            harm(newest / name)
            text = call(resuming(home), log)
            assert f"checkpoint {newest.name} is damaged" in text, f"{harm.__name__} {name}"
            assert "the one before it is used" in text
            assert (newest.parent / f".damaged-{newest.name}").is_dir()
            assert result(home) == twin(kind), f"{harm.__name__} {name}"
    assert_run_told_once(home / NAME)  # once, at last: MLflow's client would not see another file under the same name
    assert before.name < newest.name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 4 MB; needs the right to mount."""
    with mounted(tmp_path / "disk", "4m", lazily=True) as place:
        yield place


def filled(world: World, small_disk: Path, kind: str, store: Path, log: Path, *more: str) -> tuple[Path, Path]:
    """A training with a checkpoint on a disk without space for another: its home, and what takes the space."""
    home, ballast = small_disk / "home", small_disk / "ballast"
    killed_with(beginning(world, home, kind, f"tracking.uri=sqlite:///{store}", *more), home, log, 1)
    ballast.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 100_000))
    return home, ballast


@pytest.mark.parametrize("kind", ["full", pytest.param("full over two ranks", marks=pytest.mark.thorough)])
def test_a_checkpoint_without_space_is_tried_again_until_there_is_some(
    world: World, twin: Callable[[str], Result], tmp_path: Path, small_disk: Path, kind: str
) -> None:
    log = tmp_path / "log"
    home, ballast = filled(world, small_disk, kind, tmp_path / "mlflow.db", log)
    process = start(resuming(home), log)
    wait_for(lambda: "trying again for 2:00" in log.read_text(), process, log)
    ballast.unlink()
    text = finish(process, log)
    assert "Traceback" not in text
    assert result(home) == twin(kind)
    assert_run_told_once(home / NAME, store=tmp_path / "mlflow.db")


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["full", "full over two ranks"])
def test_without_patience_a_checkpoint_without_space_is_told_and_what_was_saved_is_whole(
    world: World, twin: Callable[[str], Result], tmp_path: Path, small_disk: Path, kind: str
) -> None:
    log = tmp_path / "log"
    home, ballast = filled(world, small_disk, kind, tmp_path / "mlflow.db", log, "cluster.storage_patience=0")
    text = call(resuming(home), log, expected=6)
    assert "Traceback" not in text
    assert "free space" in text
    assert checkpoints(home)
    assert not [problem for folder in checkpoints(home) for problem in damage(folder)]
    assert not list((home / NAME / "checkpoints").glob(".writing-*"))
    ballast.unlink()
    call(resuming(home), log)
    assert result(home) == twin(kind)
    assert_run_told_once(home / NAME, store=tmp_path / "mlflow.db")
