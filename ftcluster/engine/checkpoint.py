"""Checkpoints that are whole or absent: written aside, hashed, marked by a manifest, then renamed.

::

    checkpoints/step-00000040/            what `write` put there
    checkpoints/step-00000040/manifest.json   sha256 and size of every file; written last
    checkpoints/.writing-...              a save in progress, or one that was killed (removed by the next save)
    checkpoints/.damaged-step-...         failed its manifest when somebody wanted to load it

Nothing here knows what a checkpoint contains.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ftcluster.contracts.folder import to_disk
from ftcluster.errors import StoreError

MANIFEST = "manifest.json"
_WRITING = ".writing-"


def name_of(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step-{step:08}"


def step_of(folder: Path) -> int:
    """The step a checkpoint folder was written at."""
    return int(folder.name.removeprefix("step-"))


def latest_step(parent: Path) -> int:
    """The step of the newest checkpoint in a run's folder for them, damaged or not; -1 without any."""
    return max(map(step_of, parent.glob("step-*")), default=-1)


class Commits:
    """The checkpoints of a run: each is written where it is asked for, and committed in a thread meanwhile.

    To write is to hand numbers to the operating system. To have them on the disk, hashed, and under their final name
    takes longer than that, and nobody needs to wait for it but the next save and the end.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def begin(self, step: int, write: Callable[[Path], None], then: Callable[[], None] = lambda: None) -> None:
        """Save a checkpoint: ``write`` fills a folder aside; later it gets its final name, and ``then`` is called.

        Raises:
            StoreError: it cannot be written, or the one before could not; what was there before is untouched.
        """
        self.wait()
        aside = _written(self._parent, step, write)
        self._thread = threading.Thread(target=self._finish, args=(aside, step, then), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until the newest one is committed.

        Raises:
            StoreError: it could not be.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _finish(self, aside: Path, step: int, then: Callable[[], None]) -> None:
        try:
            _committed(aside, step)
            then()
        except Exception as error:
            self._error = error


def commit(parent: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Save a checkpoint: ``write`` fills a folder aside, which then appears under its final name at once.

    Raises:
        StoreError: the folder cannot be written; what was there before is untouched.
    """
    return _committed(_written(parent, step, write), step)


def _written(parent: Path, step: int, write: Callable[[Path], None]) -> Path:
    aside = parent / f"{_WRITING}{os.getpid()}-{name_of(step)}"
    with _saving(step, aside):
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{_WRITING}*"):
            shutil.rmtree(left)
        aside.mkdir()
        write(aside)
    return aside


def _committed(aside: Path, step: int) -> Path:
    final = aside.with_name(name_of(step))
    with _saving(step, aside):
        _write_manifest(aside)
        if final.exists():  # written before a crash, trained again since: the same state by construction
            shutil.rmtree(final)
        aside.rename(final)
        to_disk(final.parent)
    return final


@contextmanager
def _saving(step: int, aside: Path) -> Iterator[None]:
    try:
        with storing(f"the checkpoint of step {step}", aside.parent):
            yield
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def storing(what: str, place: Path) -> Iterator[None]:
    """Tell a full disk or a missing right, in whichever library it shows, as one error with the remedy.

    Raises:
        StoreError: something inside the block could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{what} could not be written: {getattr(error, 'strerror', None) or error}",
            where=str(place),
            remedy="free space or fix the permissions, then resume; what was saved before is intact",
        ) from error


def publish(aside: Path, final: Path) -> None:
    """Put a finished folder under its final name, safe from a power cut; what was there before goes.

    Raises:
        OSError: the disk is full or may not be written.
    """
    _settle(aside)
    to_disk(aside)
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    to_disk(final.parent)


def _settle(folder: Path) -> list[Path]:
    """All its files, safe from a power cut, and for whom their folder is: those of safetensors are their owner's alone.

    A server that loads a result may be another user.
    """
    rights = folder.stat().st_mode & 0o666
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        with suppress(OSError):  # some file systems have rights of their own
            path.chmod(rights)
        to_disk(path)
    return files


def _write_manifest(folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in _settle(folder)
    }
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": files}, indent=1) + "\n")
    to_disk(manifest)
    to_disk(folder)


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path) -> list[str]:
    """What is wrong with a checkpoint according to its manifest; empty when it is whole."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        listed = [(name, entry["bytes"], entry["sha256"]) for name, entry in files.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ["its manifest is missing or unreadable"]
    found = []
    for name, size, digest in listed:
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != size or sha256(path) != digest:
            found.append(f"{name} differs from its manifest")
    return found


def newest(parent: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint, or None. Damaged ones are put aside with a word to ``warn``."""
    folders = sorted(parent.glob("step-*"))
    while folders:
        folder = folders.pop()
        if not (found := damage(folder)):
            return folder
        folder.rename(_free(folder.with_name(f".damaged-{folder.name}")))
        instead = "the one before it is used" if folders else "there is none before it, so the run starts again"
        warn(f"checkpoint {folder.name} is damaged ({'; '.join(found)}); {instead}")
    return None


def _free(path: Path) -> Path:
    number = 1
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.partition('~')[0]}~{number}")
    return path


def collect(parent: Path, *, keep: int, best: Path | None = None) -> None:
    """Remove all but the newest ``keep`` checkpoints and the ``best``; the newest stays in any case."""
    for folder in sorted(parent.glob("step-*"), reverse=True)[max(keep, 1) :]:
        if folder != best:
            shutil.rmtree(folder, ignore_errors=True)
