"""Near duplicates: MinHash signatures of rows, and pairs of rows whose signatures agree.

A row is the set of its runs of three words (of characters, where a script has no spaces). Two rows are near when
these sets have a Jaccard similarity of at least 0.8. Signatures are rensa's; rows that share a band of five of their
128 values are compared (locality-sensitive hashing). An estimate is within 0.03 of the truth in two cases of three, so
of pairs at 0.80 to 0.85 some are missed, and above that hardly any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int, float]  # a row, the other, their similarity
NEAR = 0.8  # Jaccard similarity
_VALUES, _SEED = 128, 17
_ROWS_OF_A_BAND = 5
_RUN = 3  # words
_LONGEST = 20_000  # characters of a row that are looked at
_CALL = 64  # rows per call: below the size from which the library starts threads, of which every core has one already
# Scripts without spaces count by character: kana, CJK, and their extensions; Thai, Lao, Khmer, Myanmar.
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]|[^\W_]+")

_ASCII_GAPS = {code: " " for code in range(128) if not chr(code).isalnum()}


def signatures(texts: Sequence[str]) -> list[bytes]:
    """The signature of each text, 128 values of four bytes."""
    from rensa import RMinHash

    found: list[bytes] = []
    for at in range(0, len(texts), _CALL):
        runs = [_runs(text) for text in texts[at : at + _CALL]]
        rows = RMinHash.digest_matrix_from_token_sets(runs, _VALUES, _SEED).to_rows()
        found += (np.array(row, np.uint32).tobytes() for row in rows)
    return found


def _words(text: str) -> list[str]:
    """Words in lower case; of ASCII text by table, which is three times as fast and finds the same words."""
    return text.translate(_ASCII_GAPS).lower().split() if text.isascii() else _WORD.findall(text.lower())


def _runs(text: str) -> list[str]:
    words = _words(text[:_LONGEST])
    if len(words) <= _RUN:
        return [" ".join(words)]
    return [f"{a} {b} {c}" for a, b, c in zip(words, words[1:], words[2:], strict=False)]


def near_pairs(rows: Sequence[bytes], trains: NDArray[np.bool_]) -> tuple[list[Pair], list[Pair]]:
    """Rows that are near an earlier one, and rows that are held out and near one that is trained: one pair for each."""
    if len(rows) < 2:
        return [], []
    table = np.frombuffer(b"".join(rows), np.uint32).reshape(len(rows), _VALUES)
    among, across = _Nearest(table), _Nearest(table)
    every, held_out = np.ones(len(rows), np.bool_), ~trains
    for bucket in _buckets(table):
        among.compare(bucket, every, every)
        if held_out.any():
            across.compare(bucket, held_out, trains)
    return among.pairs(), across.pairs()


class _Nearest:
    """The nearest row that was compared with each row."""

    def __init__(self, table: NDArray[np.uint32]) -> None:
        self._table = table
        self._best: dict[int, tuple[float, int]] = {}

    def compare(self, bucket: NDArray[np.int64], wanted: NDArray[np.bool_], against: NDArray[np.bool_]) -> None:
        """Compare each wanted row with the first row of ``against`` in its bucket."""
        count = len(bucket)
        first = np.full(int(bucket.max()) + 1, count)
        candidates = np.flatnonzero(against)
        first[bucket[candidates[::-1]]] = candidates[::-1]  # of several, the one that is written last stays
        other = first[bucket]
        row = np.flatnonzero(wanted & (other < count) & (other != np.arange(count)))
        likeness = (self._table[row] == self._table[other[row]]).mean(axis=1)
        for at in np.flatnonzero(likeness >= NEAR):
            one, two = int(row[at]), int(other[row[at]])
            self._best[one] = max(self._best.get(one, (0.0, 0)), (float(likeness[at]), two))

    def pairs(self) -> list[Pair]:
        """(row, the other, similarity) in the order of the rows."""
        return [(row, other, round(likeness, 2)) for row, (likeness, other) in sorted(self._best.items())]


def _buckets(table: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """For each band, a number of every row that rows with the same band share."""
    mixers = np.random.Philox(key=_SEED).random_raw(_ROWS_OF_A_BAND) | np.uint64(1)
    for start in range(0, _VALUES - _ROWS_OF_A_BAND + 1, _ROWS_OF_A_BAND):
        band = table[:, start : start + _ROWS_OF_A_BAND].astype(np.uint64)
        mixed: NDArray[Any] = (band * mixers).sum(axis=1, dtype=np.uint64)
        _, bucket = np.unique(mixed ^ (mixed >> np.uint64(29)), return_inverse=True)
        yield bucket
