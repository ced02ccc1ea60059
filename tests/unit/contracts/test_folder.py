"""A run's folder: where things are, and that a reader never sees half of one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ftcluster.contracts.folder import RunFolder, write_atomically


def test_every_name_lies_inside_the_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    paths = [run.config, run.facts, run.checkpoints, run.adapter, run.model, run.test]
    assert {path.parent for path in paths} == {tmp_path}
    assert len({path.name for path in paths}) == len(paths)


def test_facts_come_back_as_written_and_are_empty_before(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_facts() == {}
    run.write_facts({"total_steps": 24, "prepared": "文件"})
    assert run.read_facts() == {"total_steps": 24, "prepared": "文件"}
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]


def test_a_reader_sees_the_old_text_or_the_new_never_a_part(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    texts = ["a" * 50_000, "b" * 70_000]
    write_atomically(path, texts[0])
    done = threading.Event()

    def rewrite() -> None:
        for number in range(60):
            write_atomically(path, texts[number % 2])
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_text())
    writer.join()
    assert seen <= set(texts)


def test_a_write_that_fails_leaves_the_old_text_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half a pair: \ud800")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["facts.json"]
