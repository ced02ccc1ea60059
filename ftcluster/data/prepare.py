"""Prepares data once: rows -> examples -> splits -> documents, in a folder named by a hash of all that matters.

    store/<hash>/  {train,validation,test}.{tokens,trained,offsets}.npy   see ``documents``
                   {validation,test}.examples.jsonl   prompt and reference; line i belongs to document i
                   report.json                        see ``report``

The hash covers the bytes of the files, the settings, the tokenizer and ``VERSION``, so every trial of a sweep
shares one folder. It is written beside its place and renamed into it: what can be opened is complete.
Memory: the examples and tokens of the data set while it is prepared; only offsets afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ftcluster.data.fingerprint import file_sha256
from ftcluster.data.folder import PreparedData, Side, open_prepared, write_prepared
from ftcluster.data.formats import Example, check_format
from ftcluster.data.reading import Reading, read_examples
from ftcluster.data.report import Report, SplitSummary, count_dropped
from ftcluster.data.selection import Selection, empty_side, refuse_many_bad
from ftcluster.data.source import BadRow, check_readable
from ftcluster.data.spans import Tokenizer
from ftcluster.data.split import SPLITS, Split, assign, key
from ftcluster.data.template import Tokeniser
from ftcluster.errors import DataError, StoreError

VERSION = 1  # raise it when the same input would give other documents
_CHUNK = 1000  # examples tokenised at a time

Progress = Callable[[int, int], None]  # examples done, examples in all


@dataclass(frozen=True)
class DataSettings:
    """What to read and what to make of it; the fields are those of the config group ``data``, and the objective."""

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    max_length: int = 512
    max_bad_rows: float = 0.01
    limit: int = 0
    objective: str = "sft"

    def files(self, split: Split) -> tuple[str, ...]:
        """The files given for one side of the split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def fraction(self, split: Split) -> float:
        """The share of the training files that is held out for a side; 0 where it has files of its own."""
        shares = {"train": 0.0, "validation": self.validation_fraction, "test": self.test_fraction}
        return 0.0 if self.files(split) else shares[split]


def prepare(
    settings: DataSettings, tokenizer: Tokenizer, tokenizer_id: str, store: Path, progress: Progress | None = None
) -> PreparedData:
    """The prepared folder for these inputs, made unless it is there. Processes may do so at the same time.

    Raises:
        DataError: a file that cannot be read, too many unusable rows, a side of the split without rows.
        StoreError: the store cannot be written.
    """
    _check(settings)
    tokeniser = Tokeniser(tokenizer, settings.objective)
    try:
        store.mkdir(parents=True, exist_ok=True)
        folder = store / _content_hash(settings, tokenizer, tokenizer_id, store / "hashes.json")
        if not folder.exists():
            sides, report = _build(settings, tokeniser, progress)
            write_prepared(folder, sides, report)
    except OSError as error:
        what = str(error) if error.strerror else "a file could not be written in full"  # what numpy says has no cause
        raise StoreError(
            f"cannot prepare data: {what}",
            where=str(store),
            remedy="free space there, make it writable, or choose another home",
        ) from error
    return open_prepared(folder)


def _check(settings: DataSettings) -> None:
    if not settings.train:
        raise DataError("no training file", where="data.train", remedy="name one or more .json or .jsonl files")
    if settings.format != "auto":
        check_format(settings.format, settings.columns)
    held_out = settings.fraction("validation") + settings.fraction("test")
    if min(settings.validation_fraction, settings.test_fraction) < 0 or held_out >= 1:
        raise DataError(
            f"validation and test take {held_out:g} of the rows, which leaves none to train on",
            where="data.validation_fraction, data.test_fraction",
            remedy="give fractions from 0 to 1 whose sum is below 1",
        )
    for file in (file for split in SPLITS for file in settings.files(split)):
        check_readable(Path(file))


def _content_hash(settings: DataSettings, tokenizer: Tokenizer, tokenizer_id: str, memory: Path) -> str:
    files = {
        split: [(Path(name).name, file_sha256(Path(name), memory)) for name in settings.files(split)]
        for split in SPLITS
    }
    # The template is part of the tokenizer, but people edit it without making a new one.
    model = [tokenizer_id, len(tokenizer), tokenizer.eos_token_id, tokenizer.chat_template]
    everything = json.dumps([VERSION, asdict(settings) | files, model], sort_keys=True, default=str)
    return hashlib.sha256(everything.encode()).hexdigest()[:32]


def _build(settings: DataSettings, tokeniser: Tokeniser, progress: Progress | None) -> tuple[dict[Split, Side], Report]:
    readings = {split: read_examples(settings.files(split), settings.format, settings.columns) for split in SPLITS}
    bad = [row for reading in readings.values() for row in reading.bad]
    rows = len(bad) + sum(len(reading.examples) for reading in readings.values())
    refuse_many_bad(bad, rows, settings.max_bad_rows)  # before the work of tokenising, and again after it
    candidates, dropped = _split(settings, readings)
    total = sum(map(len, candidates.values()))
    sides: dict[Split, Side] = {}
    done = 0
    for split in SPLITS:
        selection = Selection(settings.max_length, settings.limit if split == "train" else 0)
        for at in range(0, len(candidates[split]), _CHUNK):
            chunk = candidates[split][at : at + _CHUNK]
            selection.take(chunk, tokeniser)
            done += len(chunk)
            if progress:
                progress(done, total)
        sides[split] = selection.side()
        bad += selection.bad
        dropped += selection.dropped
    refuse_many_bad(bad, rows, settings.max_bad_rows)
    report = _report(readings, sides, bad, dropped)
    for split in SPLITS:
        if not sides[split].examples and (split != "test" or settings.test or settings.test_fraction):
            raise empty_side(split, report)
    return sides, report


def _split(
    settings: DataSettings, readings: Mapping[Split, Reading]
) -> tuple[dict[Split, list[Example]], list[BadRow]]:
    """Examples of each side, and training rows left out because a held-out file has them too."""
    candidates: dict[Split, list[Example]] = {split: list(readings[split].examples) for split in SPLITS}
    candidates["train"] = []
    for example in readings["train"].examples:
        split = assign(key(example), settings.fraction("validation"), settings.fraction("test"))
        candidates[split].append(example)
    dropped: list[BadRow] = []
    held_out: set[bytes] = set()
    for split in reversed(SPLITS):
        keys = [key(example) for example in candidates[split]]
        copies = [example_key in held_out for example_key in keys]
        dropped += (
            BadRow(example.file, example.line, "the same row is held out")
            for example, copy in zip(candidates[split], copies, strict=True)
            if copy
        )
        candidates[split] = [example for example, copy in zip(candidates[split], copies, strict=True) if not copy]
        held_out.update(keys)
    return candidates, dropped


def _report(
    readings: Mapping[Split, Reading], sides: Mapping[Split, Side], bad: Sequence[BadRow], dropped: Sequence[BadRow]
) -> Report:
    used = [key(example) for side in sides.values() for example in side.examples]
    return Report(
        rows_read=len(used) + len(bad) + len(dropped),
        rows_used=len(used),
        rows_bad=len(bad),
        duplicates=len(used) - len(set(used)),
        formats={file: name for reading in readings.values() for file, name in reading.formats.items()},
        dropped=count_dropped([*bad, *dropped]),
        splits={split: SplitSummary.of(sides[split].documents) for split in SPLITS},
    )
