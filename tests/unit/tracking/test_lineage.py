"""Lineage: the facts that are there, quickly, and silence about those that are not."""

from __future__ import annotations

import hashlib
import subprocess
import time
from pathlib import Path

import pytest

import ftcluster
from ftcluster.tracking.lineage import lineage


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_of_the_working_folder_is_named_and_changes_to_it_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    Path("a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-qm", "first")

    clean = lineage([])
    Path("a.txt").write_text("2")

    assert clean["git.commit"] == git("rev-parse", "HEAD")
    assert clean["git.dirty"] == "false"
    assert lineage([])["git.dirty"] == "true"


def test_outside_a_repository_nothing_is_said_about_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert not [key for key in lineage([]) if key.startswith("git")]


def test_packages_and_machine_are_named() -> None:
    facts = lineage([])

    assert facts["version.ftcluster"] == ftcluster.__version__
    assert {"version.torch", "version.transformers", "version.peft", "python", "platform", "host"} <= set(facts)


def test_data_files_are_named_with_their_hash(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n')

    facts = lineage([tmp_path / "train.jsonl"])

    assert facts["data.train.jsonl.sha256"] == hashlib.sha256(b'{"a": 1}\n').hexdigest()
    assert facts["data.train.jsonl.path"] == str(tmp_path / "train.jsonl")


def test_files_of_the_same_name_are_kept_apart(tmp_path: Path) -> None:
    files = [tmp_path / folder / "x.json" for folder in "abc"]
    for file in files:
        file.parent.mkdir()
        file.write_text(file.parent.name)

    facts = lineage(files)

    assert [facts[f"data.x.json{n}.path"] for n in ("", ".2", ".3")] == [str(file) for file in files]
    assert len({facts[f"data.x.json{n}.sha256"] for n in ("", ".2", ".3")}) == 3


def test_a_file_that_cannot_be_read_is_told_as_such(tmp_path: Path) -> None:
    assert lineage([tmp_path / "gone"])["data.gone.sha256"] == "unreadable: No such file or directory"


def test_lineage_takes_less_than_a_third_of_a_second(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 1_000_000)
    begun = time.process_time()

    lineage([tmp_path / "small"])

    assert time.process_time() - begun < 0.3
