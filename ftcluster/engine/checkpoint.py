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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def commit(parent: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Save a checkpoint: ``write`` fills a folder aside, which then appears under its final name at once.

    Raises:
        StoreError: the folder cannot be written; what was there before is untouched.
    """
    final = parent / name_of(step)
    aside = parent / f"{_WRITING}{os.getpid()}-{name_of(step)}"
    try:
        with storing(f"the checkpoint of step {step}", parent):
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.glob(f"{_WRITING}*"):
                shutil.rmtree(left)
            aside.mkdir()
            write(aside)
            _write_manifest(aside)
            if final.exists():  # written before a crash, trained again since: the same state by construction
                shutil.rmtree(final)
            aside.rename(final)
            to_disk(parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


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
    for path in sorted(p for p in aside.rglob("*") if p.is_file()):
        to_disk(path)
    to_disk(aside)
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    to_disk(final.parent)


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        to_disk(path)
        files[path.relative_to(folder).as_posix()] = {"sha256": sha256(path), "bytes": path.stat().st_size}
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
