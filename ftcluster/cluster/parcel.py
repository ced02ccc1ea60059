"""What of a folder travels with a job to a cluster: configs, sweep files and small data; never runs, weights or code.

A job sees the parcel as its working folder. It is gone some time after the job, so what must outlive that belongs on
storage that all nodes see.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftcluster.errors import UsageError
from ftcluster.units import format_bytes

LARGEST = 16 * 2**20  # bytes of a file; weights and large data are read from shared storage
HEAVIEST = 64 * 2**20  # bytes of all files; the head of a cluster refuses an upload of 100 MiB
MOST = 5000  # files; a home folder is not sent by mistake

_CACHES = frozenset({"__pycache__", "node_modules"})
# Folders with one of these: a home of runs, a virtual environment, and the package itself, which the cluster has.
_MARKS = {"ledger.db": "a home of runs", "pyvenv.cfg": "a virtual environment", "cli/app.py": "this program"}


@dataclass(frozen=True)
class Parcel:
    """``files`` are relative to ``folder``; ``left_out`` says what stays behind and why."""

    folder: Path
    files: tuple[Path, ...]
    left_out: tuple[str, ...]
    size: int

    def unfold(self, place: Path) -> None:
        """Copy the files into a folder."""
        for file in self.files:
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / file, place / file)


def choose(folder: Path) -> Parcel:
    """What travels of ``folder``. Hidden files, caches and empty folders stay behind without a word.

    Raises:
        UsageError: it is no folder, cannot be read, or holds too much.
    """
    try:
        return _chosen(folder)
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror}", where=str(error.filename or folder)) from error


def _chosen(folder: Path) -> Parcel:
    files: list[Path] = []
    left_out: list[str] = []
    size = 0
    for path, reason in _look(folder):
        name = path.relative_to(folder)
        if reason:
            left_out.append(f"{name} ({reason})")
            continue
        files.append(name)
        size += path.stat().st_size
        if size > HEAVIEST or len(files) > MOST:
            held = f"more than {format_bytes(HEAVIEST)}" if size > HEAVIEST else f"more than {MOST} files"
            raise UsageError(
                f"it holds {held} that would travel with the job",
                where=str(folder),
                remedy="name a folder with what the command needs: --working-dir FOLDER; "
                "large data belongs on storage that all nodes see",
            )
    return Parcel(folder, tuple(files), tuple(left_out), size)


def _look(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, with the reason if it stays behind; of a folder that does, only itself."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _CACHES:
            continue
        if path.is_dir():
            reason = "a link to a folder" if path.is_symlink() else _mark(path)
            if reason:
                yield path, reason
            else:
                yield from _look(path)
        elif not path.is_file():
            yield path, "no ordinary file"
        else:
            size = path.stat().st_size
            yield path, f"{format_bytes(size)}; files above {format_bytes(LARGEST)} stay" if size > LARGEST else ""


def _mark(folder: Path) -> str:
    return next((what for mark, what in _MARKS.items() if (folder / mark).is_file()), "")
