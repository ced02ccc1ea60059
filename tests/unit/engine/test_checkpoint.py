"""A checkpoint is whole or absent, whatever happens to its process, its files or its disk."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ftcluster.engine import checkpoint
from ftcluster.engine.checkpoint import (
    MANIFEST,
    Commits,
    collect,
    commit,
    damage,
    name_of,
    newest,
    publish,
    step_of,
    storing,
)
from ftcluster.errors import BadAdapter, StoreError


def content(step: int, size: int = 2000) -> Callable[[Path], None]:
    """Three files, one of them in a folder, made from the step alone."""

    def write(folder: Path) -> None:
        draw = random.Random(step)
        (folder / "progress.json").write_text(json.dumps({"step": step}))
        (folder / "part").mkdir()
        for name in ("weights.bin", "part/more.bin"):
            (folder / name).write_bytes(draw.randbytes(size))

    return write


def no_warning(text: str) -> None:
    pytest.fail(f"unexpected warning: {text}")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_committed_checkpoint_is_found_whole_under_the_name_of_its_step(tmp_path: Path) -> None:
    parent = tmp_path / "checkpoints"
    made = commit(parent, 40, content(40))
    assert (made.name, step_of(made)) == ("step-00000040", 40)
    assert newest(parent, no_warning) == made
    assert damage(made) == []
    listed = json.loads((made / MANIFEST).read_text())["files"]
    assert {name: entry["bytes"] for name, entry in listed.items()} == {
        "progress.json": 12,
        "weights.bin": 2000,
        "part/more.bin": 2000,
    }
    assert [path.name for path in parent.iterdir()] == [made.name]


def test_commits_go_on_meanwhile_one_behind_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits, go_on, told = Commits(tmp_path), threading.Event(), list[str]()
    plain = checkpoint._write_manifest

    def slowly(folder: Path) -> None:
        assert go_on.wait(30)
        plain(folder)

    monkeypatch.setattr(checkpoint, "_write_manifest", slowly)
    commits.begin(1, content(1), lambda: told.append("first"))
    assert not (tmp_path / name_of(1)).exists()
    threading.Timer(0.2, go_on.set).start()
    commits.begin(2, content(2), lambda: told.append("second"))
    assert (tmp_path / name_of(1)).exists(), "the second waits for the first"
    commits.wait()
    assert (newest(tmp_path, no_warning), told) == (tmp_path / name_of(2), ["first", "second"])


def test_a_commit_that_fails_meanwhile_is_told_once_by_the_next_one_or_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Commits(tmp_path)
    commits.begin(1, content(1))
    commits.wait()

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_manifest", full)
        commits.begin(2, content(2))
        with pytest.raises(StoreError, match="the checkpoint of step 2 could not be written: No space left on device"):
            commits.wait()
        commits.begin(3, content(3))
        with pytest.raises(StoreError, match="step 3"):
            commits.begin(4, content(4))
    assert [path.name for path in tmp_path.iterdir()] == [name_of(1)]
    commits.begin(5, content(5))
    commits.wait()
    assert newest(tmp_path, no_warning) == tmp_path / name_of(5)


def test_there_is_no_newest_of_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "missing", no_warning) is None


def test_the_newest_is_that_of_the_highest_step_not_of_the_latest_write(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        commit(tmp_path, step, content(step))
    assert newest(tmp_path, no_warning) == tmp_path / name_of(100)


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyboardInterrupt(), BadAdapter("not finite")])
def test_a_writer_that_raises_midway_leaves_nothing_and_the_one_before_intact(
    tmp_path: Path, error: BaseException
) -> None:
    before = commit(tmp_path, 1, content(1))
    kept = files_of(before)

    def half(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"half of it")
        raise error

    with pytest.raises(type(error)):
        commit(tmp_path, 2, half)
    assert [path.name for path in tmp_path.iterdir()] == [before.name]
    assert files_of(before) == kept


def test_a_step_committed_again_replaces_the_one_that_is_there(tmp_path: Path) -> None:
    commit(tmp_path, 1, lambda folder: (folder / "other").write_text("an older try") and None)
    made = commit(tmp_path, 1, content(1))
    assert set(files_of(made)) == {"progress.json", "weights.bin", "part/more.bin", MANIFEST}


def test_the_next_save_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    left = tmp_path / ".writing-4711-step-00000003"
    left.mkdir(parents=True)
    (left / "weights.bin").write_bytes(b"half")
    commit(tmp_path, 4, content(4))
    assert not left.exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["progress.json", "weights.bin", "part/more.bin"])
@pytest.mark.parametrize(("harm", "said"), [(truncate, "differs"), (flip_a_bit, "differs"), (Path.unlink, "missing")])
def test_a_damaged_checkpoint_is_put_aside_with_a_word_and_the_one_before_is_used(
    tmp_path: Path, name: str, harm: Callable[[Path], None], said: str
) -> None:
    good, bad = commit(tmp_path, 1, content(1)), commit(tmp_path, 2, content(2))
    harm(bad / name)
    warnings: list[str] = []
    assert newest(tmp_path, warnings.append) == good
    (text,) = warnings
    assert "step-00000002 is damaged" in text
    assert name in text
    assert said in text
    assert "the one before it is used" in text
    assert (tmp_path / ".damaged-step-00000002").is_dir()
    assert newest(tmp_path, no_warning) == good


@pytest.mark.parametrize("harm", [truncate, Path.unlink, lambda path: path.write_text("[]")])
def test_a_checkpoint_without_a_readable_manifest_is_damaged(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    bad = commit(tmp_path, 2, content(2))
    manifest = bad / MANIFEST
    manifest.write_text(manifest.read_text().rstrip())
    harm(manifest)
    warnings: list[str] = []
    assert newest(tmp_path, warnings.append) is None
    assert "manifest is missing or unreadable" in warnings[0]
    assert "the run starts again" in warnings[0]


def test_no_flipped_bit_of_a_manifest_makes_a_damaged_checkpoint_look_whole_or_raises(tmp_path: Path) -> None:
    made = commit(tmp_path, 2, content(2, size=10))
    flip_a_bit(made / "weights.bin")
    whole = (made / MANIFEST).read_bytes()
    for at in range(len(whole)):
        for bit in (0, 2, 7):
            (made / MANIFEST).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            assert damage(made), (at, bit)


def test_several_damaged_checkpoints_are_each_told_and_a_name_used_before_does_not_clash(tmp_path: Path) -> None:
    warnings: list[str] = []
    for _ in range(3):
        for step in (1, 2):
            flip_a_bit(commit(tmp_path, step, content(step)) / "weights.bin")
        assert newest(tmp_path, warnings.append) is None
    assert len(warnings) == 6
    assert len(list(tmp_path.glob(".damaged-step-*"))) == 6


def test_collecting_keeps_the_newest(tmp_path: Path) -> None:
    made = [commit(tmp_path, step, content(step, size=10)) for step in (5, 10, 15, 20, 100)]
    collect(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [made[3].name, made[4].name]
    collect(tmp_path, keep=0)
    assert [path.name for path in tmp_path.iterdir()] == [made[4].name], "the newest is never removed"


def test_collecting_keeps_the_best_beside_the_newest(tmp_path: Path) -> None:
    made = [commit(tmp_path, step, content(step, size=10)) for step in (5, 10, 15, 20)]
    collect(tmp_path, keep=1, best=made[1])
    assert sorted(tmp_path.iterdir()) == [made[1], made[3]]


def test_publishing_replaces_a_folder_by_a_finished_one(tmp_path: Path) -> None:
    final, aside = tmp_path / "adapter", tmp_path / ".writing-adapter"
    for folder, text in ((final, "old"), (aside, "new")):
        folder.mkdir()
        (folder / text).write_text(text)
    publish(aside, final)
    assert files_of(final) == {"new": b"new"}
    assert not aside.exists()


def test_what_is_saved_is_for_whom_its_folder_is_though_safetensors_keeps_its_files_private(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        save_file({"a": torch.zeros(3)}, folder / "adapter.safetensors")
        (folder / "adapter.safetensors").chmod(0o600)  # as some releases of it leave it
        (folder / "config.json").touch()

    before = os.umask(0o027)
    try:
        saved, aside = commit(tmp_path, 5, write), tmp_path / "aside"
        aside.mkdir()
        write(aside)
        publish(aside, tmp_path / "adapter")
    finally:
        os.umask(before)
    for path in (*saved.iterdir(), *(tmp_path / "adapter").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o640, path


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file/checkpoints: the checkpoint of step 3 could not be written: Not a dir"):
        commit(tmp_path / "file" / "checkpoints", 3, content(3))


def test_errors_of_other_kinds_pass_through_storing() -> None:
    with pytest.raises(ZeroDivisionError), storing("nothing", Path()):
        1 / 0  # noqa: B018 - the error is the point


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 300 kB; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "ftcluster-test", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("library", ["plain files", "safetensors"])
def test_a_full_disk_is_an_error_with_a_remedy_and_saving_goes_on_when_there_is_space(
    small_disk: Path, library: str
) -> None:
    def write(folder: Path) -> None:
        if library == "safetensors":
            save_file({"weights": torch.arange(25_000, dtype=torch.float32)}, folder / "weights.safetensors")
        else:
            (folder / "weights.bin").write_bytes(random.Random(1).randbytes(100_000))

    first = commit(small_disk, 1, write)
    kept = files_of(first)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 130_000)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        commit(small_disk, 2, write)
    assert caught.value.where == str(small_disk)
    assert "free space" in caught.value.remedy
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", first.name]
    assert files_of(first) == kept
    ballast.unlink()
    assert newest(small_disk, no_warning) == first
    second = commit(small_disk, 2, write)
    assert newest(small_disk, no_warning) == second


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import content
from ftcluster.engine.checkpoint import collect, commit, newest
parent = Path(sys.argv[1])
last = newest(parent, print)
step = int(last.name[5:]) if last else 0
while True:
    step += 1
    commit(parent, step, content(step, size=200_000))
    collect(parent, keep=2)
"""


@pytest.mark.chaos
def test_a_process_killed_at_any_moment_of_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    draw = random.Random(7)
    parent = tmp_path / "checkpoints"
    seen = [0]
    for kill in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(parent), str(Path(__file__).parent)])
        deadline = time.monotonic() + 60
        while max(map(step_of, parent.glob("step-*")), default=0) < seen[-1] + 2:  # the writer does not wait for us
            assert writer.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)  # anywhere in the few milliseconds a save takes
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        whole = newest(parent, no_warning)
        assert whole is not None, f"nothing to resume from after kill {kill}"
        expected = tmp_path / f"expected-{kill}"
        expected.mkdir()
        content(step_of(whole), size=200_000)(expected)
        found = files_of(whole)
        found.pop(MANIFEST)
        assert found == files_of(expected)
        seen.append(step_of(whole))
    assert seen == sorted(set(seen))
