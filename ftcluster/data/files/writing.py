"""Writes JSON Lines files beside their place and renames them into it, so that a half-written one is never there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ftcluster.errors import StoreError, UsageError

WriteRow = Callable[[Mapping[str, Any]], None]


@contextmanager
def new_file(path: Path, *, force: bool = False, read: Iterable[str] = ()) -> Iterator[WriteRow]:
    """Write rows to a file that appears, complete, when the block ends; an error leaves nothing behind.

    Raises:
        UsageError: the file is there and ``force`` is not given, or it is one of the files that are ``read``.
        StoreError: it cannot be written.
    """
    with new_files({"": path}, force=force, read=read) as writers:
        yield writers[""]


@contextmanager
def new_files(
    paths: Mapping[str, Path], *, force: bool = False, read: Iterable[str] = ()
) -> Iterator[dict[str, WriteRow]]:
    """As ``new_file`` for several files, which appear one right after the other."""
    sources = {Path(name).resolve() for name in read}
    for path in paths.values():
        refuse_existing(path, force=force)
        if path.resolve() in sources:  # rows that were left out would be gone
            raise UsageError("is one of the files that are read", where=str(path), remedy="name another file")
    asides = {name: path.with_name(f".{path.name}.{os.getpid()}") for name, path in paths.items()}
    try:
        with ExitStack() as stack:
            handles = {}
            for name, aside in asides.items():
                aside.parent.mkdir(parents=True, exist_ok=True)
                handles[name] = stack.enter_context(aside.open("w", encoding="utf-8", newline="\n"))
            yield {name: _writer(handle) for name, handle in handles.items()}
            for handle in handles.values():
                handle.flush()
                os.fsync(handle.fileno())
        for name, aside in asides.items():
            aside.replace(paths[name])
    except OSError as error:
        raise StoreError(
            f"cannot be written: {error.strerror or error}",
            where=", ".join(map(str, paths.values())),
            remedy="free space there, make it writable, or name another place",
        ) from error
    finally:
        for aside in asides.values():
            with suppress(OSError):  # its folder may be what is wrong
                aside.unlink()


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raises a UsageError if the file is there and may not be replaced."""
    if path.exists() and not (force and path.is_file()):
        raise UsageError(
            "is a folder" if path.is_dir() else "is there already",
            where=str(path),
            remedy="name another file" + ("" if path.is_dir() else ", or replace it with --force"),
        )


def _writer(handle: Any) -> WriteRow:
    def write(row: Mapping[str, Any]) -> None:
        handle.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    return write
