"""Folders that appear whole or not at all: written beside their place under a lock, then renamed into it.

The lock is what tells a folder that is being written from one whose writer was killed: locks end with their process,
so the next writer removes what has none.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ftcluster.contracts.folder import to_disk

_LOCK = ".writing"


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A new folder that takes its place when the block ends well; one that got there first is as good and stays."""
    remove_abandoned(folder.parent)
    scratch, lock = _locked_folder(folder)
    try:
        yield scratch
        for file in scratch.iterdir():
            to_disk(file)
        scratch.chmod(0o755)  # a temporary folder is private; the store may be a team's
        _move(scratch, folder)
        (folder / _LOCK).unlink(missing_ok=True)
        to_disk(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.close()


def remove_abandoned(store: Path) -> None:
    """Remove what writers left that were killed."""
    for lock_file in store.glob(f".*/{_LOCK}"):
        try:
            with lock_file.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_file.parent, ignore_errors=True)
        except OSError:  # its writer lives, or finished this moment, or this file system has no locks
            continue


def _locked_folder(folder: Path) -> tuple[Path, BinaryIO]:
    while True:
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        lock = (scratch / _LOCK).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # no locks here: what a kill leaves behind then stays
            return scratch, lock
        if (scratch / _LOCK).exists():  # else it was taken for abandoned before it was locked
            return scratch, lock
        lock.close()


def _move(scratch: Path, folder: Path) -> None:
    try:
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
