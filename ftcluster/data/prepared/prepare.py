"""Prepares data once, on all cores, in a folder named by a hash of all that matters.

    files --blocks--> [worker: parse, format, side, tokenise, examine] --chunks in order--> assembly --> <store>/<hash>/

The hash covers the bytes of the files, the settings, the tokenizer and ``VERSION``, so every trial of a sweep shares
one folder. It is written beside its place and renamed into it: what can be opened is complete. Memory: a few blocks
of rows for each worker, and some 40 bytes a document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftcluster.data.files.blocks import check_readable
from ftcluster.data.files.scratch import written_aside
from ftcluster.data.prepared.assembly import Assembly
from ftcluster.data.prepared.chunks import TRAIN, Chunk, Stage, make_stage
from ftcluster.data.prepared.fingerprint import HASHES, file_sha256
from ftcluster.data.prepared.folder import TEMPLATE, PreparedData, open_prepared
from ftcluster.data.prepared.mixing import Chosen
from ftcluster.data.prepared.settings import DataSettings
from ftcluster.data.prepared.workers import Crew, cores, crew
from ftcluster.data.rows.reading import DataFile, Work, works
from ftcluster.data.text.spans import Tokenizer
from ftcluster.errors import DataError, StoreError

__all__ = ["VERSION", "DataSettings", "Progress", "prepare"]

VERSION = 2  # raise it when the same input would give other documents
_WORTH_WORKERS = 8_000_000  # bytes: five seconds of work on one core, where workers take half a second to start

Progress = Callable[[int, int], None]  # rows done, rows in all (estimated until all are done)


def prepare(
    settings: DataSettings,
    tokenizer: Tokenizer,
    tokenizer_id: str,
    store: Path,
    progress: Progress | None = None,
    *,
    load: Callable[[], Tokenizer] | None = None,
    workers: int | None = None,
) -> PreparedData:
    """The prepared folder for these inputs, made unless it is there. Processes may do so at the same time.

    ``load`` is how a worker process gets the same tokenizer; without it everything happens in this process.
    ``workers`` defaults to one per core where there is enough to do.

    Raises:
        DataError: a file that cannot be read, too many unusable rows, a side of the split without rows.
        StoreError: the store cannot be written.
    """
    settings.check()
    files = settings.files()
    for file in files:
        check_readable(Path(file.name))
    here = Stage(settings, tokenizer)  # refuses a tokenizer that cannot be used before any file is read
    before = _marks(files)
    try:
        store.mkdir(parents=True, exist_ok=True)
        folder = store / _content_hash(settings, files, tokenizer, tokenizer_id, store / HASHES)
        if not folder.exists():
            count = (_fitting_workers(files) if workers is None else workers) if load else 1
            make: Callable[[], Stage] = partial(make_stage, settings, load) if load and count > 1 else lambda: here
            with written_aside(folder) as scratch, crew(make, count) as staff:
                _Preparation(settings, files, staff, progress).write(scratch)
                _write_template(scratch, tokenizer)
                _refuse_changed(files, before)
    except OSError as error:
        raise StoreError(
            f"cannot prepare data: {error}",
            where=str(store),
            remedy="free space there, make it writable, or choose another home",
        ) from error
    return open_prepared(folder)


def _write_template(folder: Path, tokenizer: Tokenizer) -> None:
    template = tokenizer.chat_template
    named = isinstance(template, str)  # else there is none, or several, of which the tokenizer itself chooses
    (folder / TEMPLATE).write_text(json.dumps(template if named else None), encoding="utf-8")


def _fitting_workers(files: Sequence[DataFile]) -> int:
    return cores() if sum(Path(file.name).stat().st_size for file in files) >= _WORTH_WORKERS else 1


def _marks(files: Sequence[DataFile]) -> list[tuple[int, int]]:
    stats = [Path(file.name).stat() for file in files]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _refuse_changed(files: Sequence[DataFile], before: Sequence[tuple[int, int]]) -> None:
    """The folder is named by bytes that were hashed before they were read, so these must be the same."""
    for file, was, now in zip(files, before, _marks(files), strict=True):
        if was != now:
            raise DataError(
                "changed while it was read", where=file.name, remedy="copy it to a place where nothing writes to it"
            )


def _content_hash(
    settings: DataSettings, files: Sequence[DataFile], tokenizer: Tokenizer, tokenizer_id: str, memory: Path
) -> str:
    hashes = [(file.side, file.source, Path(file.name).name, file_sha256(Path(file.name), memory)) for file in files]
    nameless = replace(
        settings,
        train=(),
        validation=(),
        test=(),
        mixed=tuple(replace(source, files=()) for source in settings.mixed),
    )
    # The template is part of the tokenizer, but people edit it without making a new one.
    model = [tokenizer_id, len(tokenizer), tokenizer.eos_token_id, tokenizer.chat_template]
    everything = json.dumps([VERSION, asdict(nameless), hashes, model], sort_keys=True, default=str)
    return hashlib.sha256(everything.encode()).hexdigest()[:32]


class _Preparation:
    """One folder while it is made."""

    def __init__(
        self, settings: DataSettings, files: Sequence[DataFile], staff: Crew[Work, Chunk], progress: Progress | None
    ) -> None:
        self._settings, self._files, self._staff, self._progress = settings, files, staff, progress
        self._told = (0, 0)
        self._sizes = [Path(file.name).stat().st_size for file in files]

    def write(self, folder: Path) -> None:
        training = [file for file in self._files if file.side is None]
        with Assembly(self._settings, folder, self._files) as assembly:
            for side in ("test", "validation"):
                self._take([file for file in self._files if file.side == side], assembly)
                assembly.end_of_side()
            assembly.choose(self._choose(training, assembly))
            self._take(training, assembly)
            assembly.finish()
            self._tell(assembly.rows, assembly.rows)

    def _take(self, files: Sequence[DataFile], assembly: Assembly) -> None:
        def prepared() -> Iterator[Work]:
            for file in files:
                for work in works(file):
                    yield replace(work, below=assembly.below(file), cutoff=assembly.cutoff)

        for work, chunk in self._staff.map(prepared()):
            assembly.take(work.file, work.format, chunk)
            self._tell(assembly.rows, self._expected(work, assembly.rows))

    def _tell(self, done: int, total: int) -> None:
        if self._progress and self._told != (done, total):
            self._told = (done, total)
            self._progress(done, total)

    def _expected(self, work: Work, rows: int) -> int:
        """All rows, as far as can be told from the share of the bytes that has been read."""
        sizes, here = self._sizes, work.file.number
        return max(rows, round(rows * sum(sizes) / max(1, sum(sizes[:here]) + work.block.share * sizes[here])))

    def _choose(self, files: Sequence[DataFile], assembly: Assembly) -> dict[int, Chosen]:
        """The rows that limited sources take: those with the lowest keys, which are known once all have been read."""
        limits = {index: source.limit for index, source in enumerate(self._settings.sources) if source.limit}
        keys: dict[int, list[NDArray[np.uint64]]] = {index: [np.empty(0, np.uint64)] for index in limits}
        limited = [file for file in files if file.source in limits]
        items = (replace(work, only_keys=True) for file in limited for work in works(file))
        for work, chunk in self._staff.map(items):
            keys[work.file.source].append(chunk.keys_E[(chunk.sides_E == TRAIN) & ~assembly.copies(chunk)])
        return {index: Chosen(np.concatenate(keys[index]), limit) for index, limit in limits.items()}
