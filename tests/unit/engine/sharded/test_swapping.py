"""Folders on a fast disk that DeepSpeed swaps to."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from ftcluster.engine.sharded.swapping import with_own_folder
from ftcluster.errors import UsageError

pytest.importorskip("deepspeed", reason="sharded trials need DeepSpeed")


class User:
    """An engine, as far as this is concerned."""


def _on(disk: Path) -> dict[str, object]:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        pytest.skip("offload to a disk needs libaio (apt install libaio-dev)")
    return {"clip": 1, "zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": str(disk)}}}


def test_each_user_has_a_folder_which_goes_with_it_and_what_killed_processes_left_goes_too(tmp_path: Path) -> None:
    left, others = tmp_path / "ftcluster-left", tmp_path / "others"
    for folder in (left, others):
        folder.mkdir()
        (folder / "lock").touch()  # which nobody holds any more
    users = [User(), User()]
    told = [with_own_folder(_on(tmp_path), user) for user in users]
    folders = {Path(each["zero_optimization"]["offload_param"]["nvme_path"]) for each in told}
    assert len(folders) == 2
    assert set(tmp_path.iterdir()) == {others, *folders}
    users.clear()
    gc.collect()
    assert list(tmp_path.iterdir()) == [others]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        with_own_folder(_on(tmp_path / "none"), User())


def test_without_offload_to_a_disk_nothing_changes() -> None:
    config = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}
    assert with_own_folder(config, User()) == config
