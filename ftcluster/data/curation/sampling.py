"""A small share of a data set that stands for all of it, to size an opportunity before paying for all of it.

Of every stratum (file and length of the rows) the rows with the smallest content hashes are taken. So a sample is the
same on every machine, the 1 % sample is inside the 10 % sample, and rows added elsewhere change nothing.
Memory: 20 bytes a row.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftcluster.data.curation.convert import row_maker
from ftcluster.data.files.source import BadRow
from ftcluster.data.files.writing import new_file
from ftcluster.data.prepared.report import Dropped, Reasons
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.examples import Progress, note, read_files
from ftcluster.data.rows.reading import DataFile
from ftcluster.data.rows.split import key, subset_key
from ftcluster.errors import UsageError


@dataclass(frozen=True)
class Sample:
    """What was written out of how many usable rows, and of each file."""

    file: Path
    rows: int
    of: int
    strata: int
    by_file: Mapping[str, int]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class _Seen:
    keys: NDArray[np.uint64]
    stratum_of: NDArray[np.uint32]  # aligned with keys
    strata: tuple[str, ...]
    dropped: tuple[Dropped, ...]


def sample(
    files: Sequence[DataFile], out: Path, share: float, *, force: bool = False, progress: Progress | None = None
) -> Sample:
    """Write the share of the rows as they stand, in their order. Reads the files twice.

    Raises:
        DataError: a file that cannot be read, or no usable row.
        UsageError: no share, or ``out`` is there and ``force`` is not given.
        StoreError: it cannot be written.
    """
    if not 0 < share <= 1:
        raise UsageError(f"{share:g} is no share of the rows", where="--share", remedy="such as 0.01 for 1 %")
    with new_file(out, force=force, read=[file.name for file in files]) as write:
        seen = _look(files, progress)
        taken = choose(seen.keys, seen.stratum_of, seen.strata, share)
        by_file: dict[str, int] = {}
        at, as_written = 0, row_maker(files)
        for read in read_files(files, progress):
            if isinstance(read.example, Example):
                if taken[at]:
                    write(as_written(read))
                    by_file[read.example.file] = by_file.get(read.example.file, 0) + 1
                at += 1
    return Sample(out, int(taken.sum()), len(taken), len(seen.strata), by_file, seen.dropped)


def choose(
    keys: NDArray[np.uint64], stratum_of: NDArray[np.uint32], strata: tuple[str, ...], share: float
) -> NDArray[np.bool_]:
    """Which rows are taken. A larger share takes the same rows and more."""
    taken = np.zeros(len(keys), np.bool_)
    sizes = np.bincount(stratum_of, minlength=len(strata))
    for index, name in enumerate(strata):
        mine = np.flatnonzero(stratum_of == index)
        # Rounded up or down by the stratum's name, so that many small strata together have their share.
        count = int(share * len(mine) + _fraction(name))
        if index == int(np.argmax(sizes)):
            count = max(count, 1)
        taken[mine[np.argsort(keys[mine], kind="stable")[: min(count, len(mine))]]] = True
    return taken


def _look(files: Sequence[DataFile], progress: Progress | None) -> _Seen:
    keys, stratum_of = array("Q"), array("I")
    strata: dict[str, int] = {}
    dropped = Reasons()
    for read in read_files(files, progress):
        if isinstance(read.example, BadRow):
            note(dropped, read.example)
            continue
        keys.append(subset_key(key(read.example)))
        name = f"{Path(read.example.file).name} {read.format} {_length(read.example).bit_length()}"
        stratum_of.append(strata.setdefault(name, len(strata)))
    return _Seen(
        np.frombuffer(keys.tobytes(), np.uint64),
        np.frombuffer(stratum_of.tobytes(), np.uint32),
        tuple(strata),
        dropped.counted(),
    )


def _length(example: Example) -> int:
    """Characters; their power of two is the stratum."""
    return len(example.text) + sum(len(message.content) for message in example.messages)


def _fraction(name: str) -> float:
    """A number in [0, 1) that belongs to a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48
