"""Puts chunks together in the order of the files: who is held out, limits, counts, and what is written.

Everything that depends on more than one block is decided here, in one process and in one order, so that the folder
is the same however many workers there were. Memory: some 50 bytes a document, whatever its length.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ftcluster.data.audit import Facts
from ftcluster.data.files.source import BadRow
from ftcluster.data.prepared.chunks import TRAIN, Chunk
from ftcluster.data.prepared.document_writer import Columns, DocumentWriter, write_numbers
from ftcluster.data.prepared.folder import EPOCH, REPORT
from ftcluster.data.prepared.mixing import Chosen, epoch_of
from ftcluster.data.prepared.report import (
    SHOWN,
    EpochSummary,
    Histogram,
    Reasons,
    Report,
    SourceSummary,
    SplitSummary,
    empty_side,
    refuse_many_bad,
)
from ftcluster.data.prepared.settings import DataSettings
from ftcluster.data.rows.reading import ALL_KEYS, DataFile
from ftcluster.data.rows.split import SPLITS

_NAMED = 50  # bad rows kept for an error message
_COPY, _NOT_CHOSEN, _BEHIND, _EXCLUDED, _USED = range(5)  # the last two were certainly tokenised


class _Side:
    """What is kept of one side while it is written."""

    def __init__(self) -> None:
        self.rows = 0
        self.trained_tokens = 0
        self._lengths: list[NDArray[np.int64]] = []

    def add(self, rows: int, columns: Columns) -> None:
        self.rows += rows
        self.trained_tokens += int(np.count_nonzero(columns.trained))
        self._lengths.append(columns.lengths)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return _joined(self._lengths, np.int64)

    def summary(self) -> SplitSummary:
        return SplitSummary.of(self.rows, self.lengths, self.trained_tokens)


class Assembly:
    """Writes a prepared folder from chunks; use as a context manager, and ``finish`` at its end."""

    def __init__(self, settings: DataSettings, folder: Path, files: Sequence[DataFile]) -> None:
        self._settings, self._folder = settings, folder
        self._open = ExitStack()
        self._names = [file.name for file in files]
        self._writers = [self._open.enter_context(DocumentWriter(folder, split, self._names)) for split in SPLITS]
        self._sides = [_Side() for _ in SPLITS]
        self._held_out: NDArray[np.uint64] = np.empty(0, np.uint64)  # keys of finished held-out files
        self._keys: list[NDArray[np.uint64]] = []  # of used rows
        self._lines: list[NDArray[np.int64]] = []  # of the same
        self._numbers: list[NDArray[np.int32]] = []  # of the files they are in
        self._train_keys: list[NDArray[np.uint64]] = []  # of training documents
        self._train_sources: list[NDArray[np.int32]] = []
        self._found_keys: list[NDArray[np.uint64]] = []  # of the held-out file that is being read
        self._chosen: Mapping[int, Chosen] = {}
        self._dropped, self._cut = Reasons(), Reasons()
        self._histogram = Histogram(settings.max_length)
        self._formats: dict[str, str] = {}
        self._bad = 0
        self._first_bad: list[BadRow] = []
        self._facts = Facts()
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    @property
    def cutoff(self) -> int:
        """What later blocks need not be examined for; see ``audit.examine``."""
        return self._facts.cutoff

    def below(self, file: DataFile) -> int:
        """Training rows of this file with a key from here on will not be used."""
        if self._is_full:
            return 0
        return self._chosen[file.source].below if file.source in self._chosen and file.side is None else ALL_KEYS

    def choose(self, chosen: Mapping[int, Chosen]) -> None:
        """From now on, take these rows of limited sources (by index) only."""
        self._chosen = chosen

    def copies(self, chunk: Chunk) -> NDArray[np.bool_]:
        """Which examples a held-out file that was read before has too."""
        return np.isin(chunk.keys_E, self._held_out)

    def take(self, file: DataFile, format: str, chunk: Chunk) -> None:
        """Use the next block of a file."""
        if format:
            self._formats[file.name] = format
        self.rows += len(chunk.unread) + len(chunk.lines_E)
        fates = self._fates(file, chunk)
        self._note_bad(chunk, fates)
        self._note_dropped(file, chunk, fates)
        self._histogram.add(chunk.uncut_E[(fates >= _EXCLUDED) & (chunk.uncut_E > 0)])
        self._keys.append(chunk.keys_E[fates == _USED])
        self._facts += chunk.facts.of_used(set(self._keys[-1].tolist()))
        self._lines.append(chunk.lines_E[fates == _USED])
        self._numbers.append(np.full(len(self._keys[-1]), file.number, np.int32))
        if file.side is not None:
            self._found_keys.append(chunk.keys_E)
        self._write(file, chunk, fates)

    def end_of_side(self) -> None:
        """The held-out files of one side have been read: no row of theirs may be anywhere else."""
        self._held_out = np.unique(np.concatenate([self._held_out, *self._found_keys]))
        self._found_keys = []

    def finish(self) -> None:
        """Check the whole, and write the epoch and the report.

        Raises:
            DataError: too many bad rows, or a side without rows.
        """
        settings = self._settings
        refuse_many_bad(self._bad, self._first_bad, self.rows, settings.max_bad_rows)
        for split, side in zip(SPLITS, self._sides, strict=True):
            if not side.rows and (split != "test" or settings.test or settings.test_fraction):
                raise empty_side(split, len(_joined(self._keys, np.uint64)), self.rows, self._dropped.counted())
        sources, keys = _joined(self._train_sources, np.int32), _joined(self._train_keys, np.uint64)
        epoch = epoch_of(settings.sources, sources, keys)
        if epoch is not None:
            write_numbers(self._folder / EPOCH, epoch)
        text = json.dumps(asdict(self._report(sources, epoch)), indent=1, ensure_ascii=False)
        (self._folder / REPORT).write_text(text, encoding="utf-8")

    @property
    def _is_full(self) -> bool:
        return 0 < self._settings.limit <= self._sides[TRAIN].rows

    def _fates(self, file: DataFile, chunk: Chunk) -> NDArray[np.uint8]:
        """What becomes of each example."""
        usable = chunk.documents_E > 0
        fates = np.where(usable, _USED, _EXCLUDED).astype(np.uint8)
        copies = self.copies(chunk)
        training = (chunk.sides_E == TRAIN) & ~copies
        if file.side is None and (chosen := self._chosen.get(file.source)):
            left_out = np.flatnonzero(training)[~chosen.next(int(training.sum()))]
            fates[left_out] = _NOT_CHOSEN
            training[left_out] = False
        if self._settings.limit:
            room = self._settings.limit - self._sides[TRAIN].rows
            taken_before = np.cumsum(training & usable) - (training & usable)
            fates[training & (taken_before >= room)] = _BEHIND
        fates[copies] = _COPY
        return fates

    def _note_bad(self, chunk: Chunk, fates: NDArray[np.uint8]) -> None:
        refused = [problem.row for problem in chunk.problems if problem.bad and fates[problem.index] == _EXCLUDED]
        self._bad += len(chunk.unread) + len(refused)
        if len(self._first_bad) < _NAMED:
            both = sorted([*chunk.unread, *refused], key=lambda row: row.line)
            self._first_bad += both[: _NAMED - len(self._first_bad)]

    def _note_dropped(self, file: DataFile, chunk: Chunk, fates: NDArray[np.uint8]) -> None:
        limit = self._settings.limit
        source = f"data.sources.{file.source_name}.limit"
        reasons = {
            _COPY: "the same row is held out",
            _NOT_CHOSEN: f"not among the {self._settings.sources[file.source].limit} rows taken ({source})",
            _BEHIND: f"behind the first {limit} training rows (data.limit)",
        }
        for fate, reason in reasons.items():
            self._dropped.add(reason, file.name, chunk.lines_E[fates == fate].tolist())
        excluded = [problem.row for problem in chunk.problems if fates[problem.index] == _EXCLUDED]
        for row in (*chunk.unread, *excluded):
            self._dropped.add(row.reason, row.file, [row.line])
        for index, cut in chunk.cuts:
            if fates[index] == _USED:
                self._cut.add(cut, file.name, [int(chunk.lines_E[index])])

    def _write(self, file: DataFile, chunk: Chunk, fates: NDArray[np.uint8]) -> None:
        example_D = np.repeat(np.arange(len(fates)), chunk.documents_E)
        side_D = np.where(fates[example_D] == _USED, chunk.sides_E[example_D], len(SPLITS))
        side_T = np.repeat(side_D, chunk.lengths_D)
        questions = np.full(len(example_D), "", object)
        questions[chunk.sides_E[example_D] != TRAIN] = chunk.questions
        for number, (side, writer) in enumerate(zip(self._sides, self._writers, strict=True)):
            here_D, here_T = side_D == number, side_T == number
            if not here_D.any():
                continue
            columns = Columns(
                tokens=chunk.tokens[here_T],
                trained=chunk.trained[here_T],
                lengths=chunk.lengths_D[here_D],
                lines=chunk.lines_E[example_D[here_D]],
                file=file.number,
                questions=tuple(questions[here_D]) if number != TRAIN else (),
            )
            side.add(int(np.count_nonzero((fates == _USED) & (chunk.sides_E == number))), columns)
            writer.add(columns)
            if number == TRAIN:
                self._train_keys.append(chunk.keys_E[example_D[here_D]])
                self._train_sources.append(np.full(len(columns.lengths), file.source, np.int32))

    def _report(self, sources: NDArray[np.int32], epoch: NDArray[np.int64] | None) -> Report:
        lengths = self._sides[TRAIN].lengths
        order = np.arange(len(lengths)) if epoch is None else epoch
        used = _joined(self._keys, np.uint64)
        return Report(
            rows_read=self.rows,
            rows_used=len(used),
            rows_bad=self._bad,
            duplicates=len(used) - len(np.unique(used)),
            max_length=self._settings.max_length,
            formats=self._formats,
            dropped=self._dropped.counted(),
            cut=self._cut.counted(),
            lengths=self._histogram.bins(self._settings.max_length),
            splits={split: side.summary() for split, side in zip(SPLITS, self._sides, strict=True)},
            sources={
                source.name: SourceSummary(
                    documents=int(np.count_nonzero(sources == index)),
                    tokens=int(lengths[sources == index].sum()),
                    epoch_documents=int(np.count_nonzero(sources[order] == index)),
                    epoch_tokens=int(lengths[order][sources[order] == index].sum()),
                )
                for index, source in enumerate(self._settings.sources)
            },
            epoch=EpochSummary(len(order), int(lengths[order].sum())),
            audit=self._facts.findings(),
            copies=tuple(self._copies(used)),
        )

    def _copies(self, keys: NDArray[np.uint64]) -> Iterator[str]:
        """The first used rows whose text an earlier one has, each with that one."""
        lines, numbers = _joined(self._lines, np.int64), _joined(self._numbers, np.int32)

        def place(row: int) -> str:
            return f"{self._names[numbers[row]]}:{lines[row]}"

        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        copies = np.flatnonzero(first[group] != np.arange(len(keys)))[:SHOWN]
        yield from (f"{place(row)} like {place(first[group[row]])}" for row in copies.tolist())


def _joined(arrays: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])
