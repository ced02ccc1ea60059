"""Rows as the model will see them: every token's text, which of it is trained, and why a row is left out.

Each row goes through the very stage that prepares it, alone and without anything being written. What depends on other
rows is therefore not shown: copies of held-out rows, and rows beyond a limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftcluster.data.files.blocks import rows
from ftcluster.data.files.source import BadRow, Block, Row
from ftcluster.data.prepared.chunks import Chunk, Stage
from ftcluster.data.prepared.settings import DataSettings
from ftcluster.data.rows.reading import Work, works
from ftcluster.data.rows.split import SPLITS, Split
from ftcluster.data.text.spans import Tokenizer
from ftcluster.errors import UsageError


@dataclass(frozen=True)
class Stretch:
    """Text of some tokens in a row; ``control``: they are control tokens."""

    text: str
    trained: bool
    control: bool = False


@dataclass(frozen=True)
class Shown:
    """One row. ``number`` counts the rows of its side, unusable ones included; ``split`` is empty of an unreadable row.

    ``tokens`` are those before any cut (0: it was not tokenised), ``trained_tokens`` those of its ``documents``.
    """

    file: str
    line: int
    split: str
    number: int
    format: str
    source: str
    tokens: int
    trained_tokens: int
    documents: tuple[tuple[Stretch, ...], ...]
    dropped: str
    cuts: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """Which rows: the first ``count`` of a side from number ``start`` on, or the one at ``place`` (file and line)."""

    split: Split = "train"
    start: int = 1
    count: int = 3
    place: tuple[str, int] | None = None

    @classmethod
    def row(cls, text: str, split: Split) -> Wanted:
        """One row, from FILE:LINE or a number.

        Raises:
            UsageError: it is neither.
        """
        file, _, number = text.rpartition(":")
        if not number.isdecimal() or int(number) < 1 or (":" in text and not file):
            raise UsageError(f"{text} is no row", where="--row", remedy="write FILE:LINE, or a number from 1 on")
        return cls(split, count=1, place=(file, int(number))) if file else cls(split, int(number), 1)

    def has(self, file: str, line: int, split: Split, number: int) -> bool:
        """Whether a row is among them."""
        if self.place is None:
            return split == self.split and number >= self.start
        name, at = self.place
        return line == at and (file == name or file.endswith(f"/{name.removeprefix('./')}"))


def preview(settings: DataSettings, tokenizer: Tokenizer, wanted: Wanted) -> Iterator[Shown]:
    """The wanted rows in the order of the files; reads no further than the last of them.

    Raises:
        DataError: a file that cannot be read, or a tokenizer without chat template where one is needed.
        UsageError: there is no such row.
    """
    settings.check()
    stage, decode = Stage(settings, tokenizer), _Decoder(tokenizer)
    found = 0
    for work, number, split in _numbered(settings, stage):
        row = work.block.rows[0]
        if wanted.has(row.file, row.line, split, number):
            found += 1
            yield _shown(work, number, split, stage(work), decode)
            if found == wanted.count:
                return
    if not found:
        where = f"{wanted.place[0]}:{wanted.place[1]}" if wanted.place else f"row {wanted.start} of {wanted.split}"
        raise UsageError("there is no such row", where=where, remedy="a row's line is the one it starts on")


def _numbered(settings: DataSettings, stage: Stage) -> Iterator[tuple[Work, int, Split]]:
    """Every row as a block of its own, its number on its side, and the side; an unreadable one counts as training."""
    counts = dict.fromkeys(SPLITS, 0)
    for file in settings.files():
        for work in works(file):
            for row in rows(work.block):
                alone = replace(work, block=Block(row.file, row.line, rows=(row,)))
                split = file.side or _side(stage(replace(alone, only_keys=True)))
                counts[split] += 1
                yield alone, counts[split], split


def _side(chunk: Chunk) -> Split:
    return SPLITS[int(chunk.sides_E[0])] if len(chunk.sides_E) else "train"


def _shown(work: Work, number: int, split: Split, chunk: Chunk, decode: _Decoder) -> Shown:
    row: Row | BadRow = work.block.rows[0]
    ends = np.cumsum(chunk.lengths_D)
    whole = zip(np.split(chunk.tokens, ends[:-1]), np.split(chunk.trained, ends[:-1]), strict=True)
    problems = [*chunk.unread, *(problem.row for problem in chunk.problems)]
    return Shown(
        file=row.file,
        line=row.line,
        split=split if len(chunk.sides_E) else "",
        number=number,
        format=work.format,
        source=work.file.source_name,
        tokens=int(chunk.uncut_E.sum()),
        trained_tokens=int(np.count_nonzero(chunk.trained)),
        documents=tuple(decode(tokens, trained) for tokens, trained in whole) if len(ends) else (),
        dropped="".join(problem.reason + (f" ({problem.detail})" if problem.detail else "") for problem in problems),
        cuts=tuple(cut for _, cut in chunk.cuts),
    )


class _Decoder:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added: Mapping[int, Any] = tokenizer.added_tokens_decoder
        self._control = np.array([number for number, token in added.items() if token.special], np.int64)

    def __call__(self, tokens: NDArray[np.int32], trained: NDArray[np.bool_]) -> tuple[Stretch, ...]:
        """The text of a document, cut where training or control tokens begin or end."""
        control = np.isin(tokens, self._control)
        kinds = 2 * trained.astype(np.int8) + control
        bounds = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(tokens)]
        stretches, before = [], ""
        for start, end in pairwise(bounds):
            # A token's text can depend on those before it, as in tokenizers with spaces inside tokens.
            so_far = str(self._tokenizer.decode(tokens[:end]))
            text = so_far[len(before) :] if so_far.startswith(before) else self._tokenizer.decode(tokens[start:end])
            stretches.append(Stretch(str(text), bool(trained[start]), bool(control[start])))
            before = so_far
        return tuple(stretches)
