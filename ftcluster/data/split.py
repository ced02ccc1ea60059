"""Which side of the split an example is on: a pure function of its content.

So a row never changes sides when rows are added around it, and copies of a row are always on the same side.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Literal

from ftcluster.data.formats import Example

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def key(example: Example) -> bytes:
    """SHA-256 of the example's text; Unicode composition and runs of spaces do not tell copies apart."""
    parts = [[message.role, _canonical(message.content)] for message in example.messages]
    return hashlib.sha256(json.dumps([parts, _canonical(example.text)]).encode()).digest()


def _canonical(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def assign(example_key: bytes, validation_fraction: float, test_fraction: float) -> Split:
    """The key as a number in [0, 1): test takes it from below, validation from above, train the middle.

    Thus changing one fraction leaves the other side as it was.
    """
    place = int.from_bytes(example_key[:6], "big") / 2**48
    if place < test_fraction:
        return "test"
    return "validation" if place >= 1 - validation_fraction else "train"
