"""What a node does when it is asked whether it sees a shared folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftcluster.cluster.witnesses import see_and_write


def test_a_shared_folder_is_read_and_written_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("mark")
    assert see_and_write(tmp_path, "mark") == ""
    assert [file.name for file in tmp_path.iterdir()] == ["mark"]


def test_a_folder_of_the_same_name_that_is_another_one_is_noticed(tmp_path: Path) -> None:
    assert see_and_write(tmp_path, "mark") == f"it does not see {tmp_path}: No such file or directory"
    (tmp_path / "mark").write_text("something else")
    assert see_and_write(tmp_path, "mark") == "it sees another file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_only_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("mark")
    tmp_path.chmod(0o500)
    assert see_and_write(tmp_path, "mark") == f"it cannot write to {tmp_path}: Permission denied"
