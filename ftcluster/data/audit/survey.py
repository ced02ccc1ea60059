"""The report of data files without a model: everything that needs no tokens. Nothing is prepared or kept.

Also what ``ftcluster data check`` shows of a data set that cannot be prepared because too much of it is bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from ftcluster.data.audit.facts import Facts, examine
from ftcluster.data.prepared.report import EpochSummary, Reasons, Report, SplitSummary
from ftcluster.data.prepared.settings import DataSettings
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.examples import Progress, Read, note, read_files
from ftcluster.data.rows.reading import DataFile
from ftcluster.data.rows.split import SPLITS, Split, assign, key

_CHUNK = 1000  # rows looked at in one go


@dataclass
class _Counts:
    read: int = 0
    bad: int = 0
    used: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    reasons: Reasons = field(default_factory=Reasons)
    formats: dict[str, str] = field(default_factory=dict)
    seen: set[bytes] = field(default_factory=set)
    held_out: set[bytes] = field(default_factory=set)  # rows of held-out files
    facts: Facts = field(default_factory=Facts)


def survey(settings: DataSettings, progress: Progress | None = None) -> Report:
    """Read all rows and report on them. Memory: 100 bytes a row.

    Raises:
        DataError: a file that cannot be read, or whose format is unknown.
    """
    settings.check()
    counts = _Counts()
    for file in settings.files():
        rows = read_files([file])
        while chunk := list(islice(rows, _CHUNK)):
            _count(chunk, file, settings, counts)
            if progress:
                progress(counts.read)
    used, nothing = sum(counts.used.values()), np.empty(0, np.int64)
    return Report(
        rows_read=counts.read,
        rows_used=used,
        rows_bad=counts.bad,
        duplicates=used - len(counts.seen),
        max_length=settings.max_length,
        formats=counts.formats,
        dropped=counts.reasons.counted(),
        cut=(),
        lengths=(),
        splits={split: SplitSummary.of(counts.used[split], nothing, 0) for split in SPLITS},
        sources={},
        epoch=EpochSummary(0, 0),
        audit=counts.facts.findings(),
    )


def _count(chunk: Sequence[Read], file: DataFile, settings: DataSettings, counts: _Counts) -> None:
    examples: list[Example] = []
    for read in chunk:
        counts.formats[file.name] = read.format
        if isinstance(read.example, Example):
            examples.append(read.example)
        else:
            counts.bad += 1
            note(counts.reasons, read.example)
    counts.read += len(chunk)
    keys = [key(example) for example in examples]
    fractions = settings.fraction("validation"), settings.fraction("test")
    sides = [file.side or assign(example_key, *fractions) for example_key in keys]
    counts.facts += examine(examples, keys, [side != "train" for side in sides], cutoff=counts.facts.cutoff)
    for example, example_key, side in zip(examples, keys, sides, strict=True):
        if file.side is None and example_key in counts.held_out:
            note(counts.reasons, example, "the same row is held out")
            continue
        counts.used[side] += 1
        counts.seen.add(example_key)
        if file.side is not None:
            counts.held_out.add(example_key)
