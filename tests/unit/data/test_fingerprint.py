"""A file's hash is remembered while the file is unchanged, and never longer."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from ftcluster.data.prepared.fingerprint import file_sha256

LONG_AGO = 1_600_000_000_000_000_000


def _write(file: Path, content: bytes, mtime_ns: int = LONG_AGO) -> str:
    file.write_bytes(content)
    os.utime(file, ns=(mtime_ns, mtime_ns))
    return hashlib.sha256(content).hexdigest()


def test_the_hash_is_that_of_the_bytes_and_follows_a_change_of_size_or_time(tmp_path: Path) -> None:
    file, memory = tmp_path / "rows.json", tmp_path / "hashes.json"
    for content, mtime in ((b"one", LONG_AGO), (b"three", LONG_AGO), (b"seven", LONG_AGO + 1)):
        expected = _write(file, content, mtime)
        assert file_sha256(file, memory) == expected


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    file, memory = tmp_path / "rows.json", tmp_path / "hashes.json"
    expected = _write(file, b"one")
    assert file_sha256(file, memory) == expected
    inode = file.stat().st_ino
    _write(file, b"two")  # behind the back of size, time and inode: only reading could tell
    assert file.stat().st_ino == inode
    assert file_sha256(file, memory) == expected


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    file, memory = tmp_path / "rows.json", tmp_path / "hashes.json"
    file.write_bytes(b"one")
    file_sha256(file, memory)
    assert not memory.exists()


def test_a_damaged_memory_costs_only_time(tmp_path: Path) -> None:
    file, memory = tmp_path / "rows.json", tmp_path / "hashes.json"
    expected = _write(file, b"one")
    for damage in ("", "{", "[]", json.dumps({str(file): []}), json.dumps({str(file): 7})):
        memory.write_text(damage)
        assert file_sha256(file, memory) == expected


def test_files_are_remembered_beside_each_other(tmp_path: Path) -> None:
    memory = tmp_path / "hashes.json"
    hashes = {name: _write(tmp_path / name, name.encode()) for name in ("a.json", "b.json")}
    assert {name: file_sha256(tmp_path / name, memory) for name in hashes} == hashes
    assert all(name in memory.read_text() for name in hashes)
