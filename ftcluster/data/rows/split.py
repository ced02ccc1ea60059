"""Which side of the split an example is on: a pure function of its content.

So a row never changes sides when rows are added around it, and copies of a row are always on the same side.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any, Literal

from ftcluster.data.rows.example import Example, Message

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_ENCODER = json.JSONEncoder(sort_keys=True)


def key(example: Example) -> bytes:
    """SHA-256 of what is said and trained; Unicode composition and runs of spaces do not tell copies apart.

    The first eight bytes decide the side, the next eight which rows a subset takes. Another rejected answer or thumb
    makes no other row: the same answer to the same prompt must not be trained on one side and asked on the other.
    """
    parts: list[Any] = [[_turn(message) for message in example.messages], _canonical(example.text)]
    if example.tools:
        parts.append(example.tools)
    return hashlib.sha256(_ENCODER.encode(parts).encode()).digest()


def _turn(message: Message) -> list[Any]:
    said: list[Any] = [message.role, _canonical(message.content)]
    if message.tool_calls:
        said.append([[call.name, call.arguments] for call in message.tool_calls])
    return said


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


def subset_key(example_key: bytes) -> int:
    """What orders rows where a subset is taken: of the content, and independent of the side."""
    return int.from_bytes(example_key[8:16], "big")
