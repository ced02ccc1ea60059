"""Tokenised documents on disk: flat arrays that are opened memory-mapped.

    {split}.tokens.npy   int32 [T]     all documents one after the other
    {split}.trained.npy  bool  [T]     whether the loss is on this token (as a target)
    {split}.offsets.npy  int64 [B+1]   document i is tokens[offsets[i]:offsets[i+1]]

Owns these three files. What makes a token trained is ``template``'s, when a folder is complete is ``prepare``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Document:
    """Tokens of one example and whether each is trained."""

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]


class Documents:
    """The documents of one split."""

    def __init__(self, tokens: NDArray[np.int32], trained: NDArray[np.bool_], offsets: NDArray[np.int64]) -> None:
        self._tokens = tokens
        self._trained = trained
        self._offsets = offsets
        self.lengths: NDArray[np.int64] = np.diff(offsets)

    @classmethod
    def of(cls, documents: Sequence[Document]) -> Documents:
        """Documents held in memory."""
        lengths = [len(document.tokens) for document in documents]
        return cls(
            np.concatenate([np.empty(0, np.int32), *(document.tokens for document in documents)]),
            np.concatenate([np.empty(0, np.bool_), *(document.trained for document in documents)]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )

    @classmethod
    def open(cls, folder: Path, split: str) -> Documents:
        """Documents that ``save`` wrote; nothing is read until it is asked for."""
        offsets = np.load(_path(folder, split, "offsets"), allow_pickle=False)
        mode: Literal["r"] | None = "r" if offsets[-1] else None  # nothing cannot be mapped
        tokens, trained = (
            np.load(_path(folder, split, part), mmap_mode=mode, allow_pickle=False) for part in ("tokens", "trained")
        )
        return cls(tokens, trained, offsets)

    def save(self, folder: Path, split: str) -> None:
        """Write the three arrays."""
        arrays: dict[str, NDArray[Any]] = {
            "tokens": self._tokens,
            "trained": self._trained,
            "offsets": self._offsets,
        }
        for part, array in arrays.items():
            np.save(_path(folder, split, part), array, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.lengths)

    def get(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Tokens and trained flags of one document, as views."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        here = slice(self._offsets[index], self._offsets[index + 1])
        return self._tokens[here], self._trained[here]

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return len(self._tokens)

    @property
    def trained_tokens(self) -> int:
        """Tokens the loss is on."""
        return int(np.count_nonzero(self._trained))


def _path(folder: Path, split: str, part: str) -> Path:
    return folder / f"{split}.{part}.npy"
