"""Dropout masks that are computed, not stored: a function of (key, row, column) and nothing else.

The mask of a forward pass is computed again in its backward pass, and a trial sees the same mask whatever runs
beside it. Mixing is the 32-bit finaliser "lowbias32" (Wellons 2018, hash-prospector), once over the position and
once more with the second half of the key.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
Key = tuple[int, int]


def key_of(seed: int, step: int, micro_batch: int, site: int) -> Key:
    """Two 32-bit words for one site (an adapted layer) in one micro-batch of one trial."""
    digest = hashlib.sha256(f"dropout:{seed}:{step}:{micro_batch}:{site}".encode()).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")


def keep(key: Key | tuple[Tensor, Tensor], places: Tensor, p: float | Tensor, dtype: torch.dtype) -> Tensor:
    """What inputs at ``places`` (row x columns + column) are multiplied by: 0 with probability ``p``, else 1 / (1 - p).

    Key and ``p`` are numbers, or tensors with one for each row, [rows, 1].
    """
    words = _mixed(_mixed(places ^ key[0]) ^ key[1])
    # The comparison is exact: a word is uniform on [0, 2**32).
    if isinstance(p, Tensor):
        return (words >= (p * 2**32).round()).to(dtype).mul_((1 / (1 - p)).to(dtype))
    return (words >= round(p * 2**32)).to(dtype).mul_(1 / (1 - p))


def _mixed(words: Tensor) -> Tensor:
    # Products of 32-bit words overflow 64 signed bits, which wraps; the lower 32 bits are right all the same.
    words = words ^ (words >> 16)
    words = (words * 0x7FEB352D) & _LOW
    words = words ^ (words >> 15)
    words = (words * 0x846CA68B) & _LOW
    return words ^ (words >> 16)
