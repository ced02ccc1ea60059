"""Writes training, validation and test files: each row, as it stands, on the side a training would put it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcluster.data.curation.convert import row_maker
from ftcluster.data.files.writing import new_files
from ftcluster.data.prepared.report import Dropped, Reasons
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.examples import Progress, note, read_files
from ftcluster.data.rows.reading import DataFile
from ftcluster.data.rows.split import SPLITS, Split, assign, key
from ftcluster.errors import UsageError


@dataclass(frozen=True)
class Divided:
    """Rows of each side, and what was left out."""

    files: Mapping[Split, Path]
    rows: Mapping[Split, int]
    dropped: tuple[Dropped, ...]


def divide(
    files: Sequence[DataFile],
    folder: Path,
    validation_fraction: float,
    test_fraction: float,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Divided:
    """Write train.jsonl, validation.jsonl and test.jsonl; a side that takes nothing is not written.

    A row's side depends on its content alone: it stays when rows are added, and copies are on one side.

    Raises:
        DataError: a file that cannot be read.
        UsageError: fractions that leave nothing to train on, or a file that is there and ``force`` is not given.
        StoreError: a file cannot be written.
    """
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise UsageError(
            f"validation {validation_fraction:g} and test {test_fraction:g} leave no rows to train on",
            where="--validation, --test",
            remedy="give shares from 0 to 1 whose sum is below 1",
        )
    shares: dict[Split, float] = {"train": 1.0, "validation": validation_fraction, "test": test_fraction}
    paths = {split: folder / f"{split}.jsonl" for split in SPLITS if shares[split]}
    rows: dict[Split, int] = dict.fromkeys(paths, 0)
    dropped, as_written = Reasons(), row_maker(files)
    places = {str(split): path for split, path in paths.items()}
    with new_files(places, force=force, read=[file.name for file in files]) as writers:
        for read in read_files(files, progress):
            if isinstance(read.example, Example):
                side = assign(key(read.example), validation_fraction, test_fraction)
                writers[side](as_written(read))
                rows[side] += 1
            else:
                note(dropped, read.example)
    return Divided(paths, rows, dropped.counted())
