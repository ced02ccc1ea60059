"""SHA-256 of data files, remembered as long as a file is seen not to have changed."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from ftcluster.contracts.folder import write_atomically

HASHES = "hashes.json"  # the memory's name in a store of prepared data
_SETTLED_NS = 2_000_000_000  # a file written just now may change again within one tick of its clock


def file_sha256(file: Path, memory: Path) -> str:
    """Hash of the file's bytes. ``memory`` is a JSON file; losing it costs only time."""
    file = file.resolve()
    stat = file.stat()
    mark = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    known = _recall(memory)
    if known.get(str(file), [None])[:-1] == mark:
        return str(known[str(file)][-1])
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
        write_atomically(memory, json.dumps(_recall(memory) | {str(file): [*mark, digest]}))
    return digest


def _recall(memory: Path) -> dict[str, list[int | str]]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: mark for name, mark in known.items() if isinstance(mark, list)} if isinstance(known, dict) else {}
