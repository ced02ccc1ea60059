"""Facts about the texts of a chunk of examples, which add up to those of a data set in any order.

Checks of every row are counted with the first places. What costs more is done for the rows with the smallest
content hashes: the same ones whatever the order, and most of them stay when rows are added. Rows that cannot be
among these are not even sketched, once a worker is told the ``cutoff`` of what was found so far.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ftcluster.data.audit.languages import languages
from ftcluster.data.audit.sketches import near_pairs, signatures
from ftcluster.data.audit.smallest import ALL_KEYS, Smallest
from ftcluster.data.audit.texts import problems, said
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.split import subset_key
from ftcluster.data.text.spans import Tokenizer

SHOWN = 50  # places kept of each finding
SKETCHED = 100_000  # rows looked at for near duplicates
LANGUAGE_ROWS = 1_000  # rows whose language is looked at
_START = 400  # characters that show a row's language


class Place(NamedTuple):
    """Where a finding is, and what shows it."""

    file: str
    line: int
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Found:
    """Rows with a finding, and the first of them."""

    rows: int = 0
    places: tuple[Place, ...] = ()

    def __add__(self, other: Found) -> Found:
        places = heapq.merge(self.places, other.places)
        return Found(self.rows + other.rows, tuple(place for place, _ in zip(places, range(SHOWN), strict=False)))


class Sketch(NamedTuple):
    """A row as near duplicates are looked for; of copies on two sides, the held-out one is the smaller."""

    trains: bool
    file: str
    line: int
    signature: bytes


@dataclass(frozen=True)
class Facts:
    """What was seen in some examples; ``+`` is associative and its result does not depend on the order."""

    rows: int = 0
    found: Mapping[str, Found] = field(default_factory=dict)
    sketches: Smallest[Sketch] = field(default_factory=lambda: Smallest(SKETCHED))
    starts: Smallest[str] = field(default_factory=lambda: Smallest(LANGUAGE_ROWS))

    @property
    def cutoff(self) -> int:
        """What to tell the next ``examine``, so that it does no work in vain."""
        return self.sketches.cutoff

    def of_used(self, keys: Container[int]) -> Facts:
        """Without the sketches of rows that are not used: it does not matter what those are like."""
        return replace(self, sketches=self.sketches.only(keys))

    def __add__(self, other: Facts) -> Facts:
        names = {**self.found, **other.found}
        found = {name: self.found.get(name, Found()) + other.found.get(name, Found()) for name in names}
        return Facts(self.rows + other.rows, found, self.sketches + other.sketches, self.starts + other.starts)

    def findings(self) -> dict[str, Any]:
        """Everything as JSON: what was found, near duplicates and overlap with their pairs, languages."""
        sketches = sorted(self.sketches.values(), key=lambda sketch: (sketch.file, sketch.line))
        return {
            "rows": self.rows,
            "found": {
                name: {
                    "rows": found.rows,
                    "where": [{"place": str(place), "shows": place.detail} for place in found.places],
                }
                for name, found in sorted(self.found.items())
            },
            "near": {
                "looked_at": len(sketches),
                "held_out": sum(not sketch.trains for sketch in sketches),
                **_near(sketches),
            },
            "languages": languages(self.starts.values()),
        }


def examine(
    examples: Sequence[Example],
    keys: Sequence[bytes],
    held_out: Sequence[bool],
    control: Sequence[str] = (),
    cutoff: int = ALL_KEYS,
    left_out: Container[int] = (),
) -> Facts:
    """Look at examples with their content hashes (``split.key``) and whether each is a held-out row.

    ``control`` are the control tokens of the model (see ``control_tokens``), ``cutoff`` is that of the facts so far.
    Examples at the places ``left_out`` are not sketched.
    """
    found: dict[str, list[Place]] = {}
    for example in examples:
        for name, detail in problems(example, control):
            found.setdefault(name, []).append(Place(example.file, example.line, detail))
    order = [subset_key(key) for key in keys]
    return Facts(
        len(examples),
        {name: Found(len(places), tuple(sorted(places)[:SHOWN])) for name, places in found.items()},
        _sketches(examples, order, held_out, cutoff, left_out),
        _starts(examples, order),
    )


def control_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The strings a tokenizer would take for control tokens."""
    names = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(names | {str(tokenizer.eos_token)}))


def _sketches(
    examples: Sequence[Example],
    order: Sequence[int],
    held_out: Sequence[bool],
    cutoff: int,
    left_out: Container[int],
) -> Smallest[Sketch]:
    chosen = [at for at, key in enumerate(order) if key < cutoff and at not in left_out]
    texts = [_of_its_own(examples[at]) for at in chosen]
    items: dict[int, Sketch] = {}
    for at, signature in zip(chosen, signatures(texts), strict=True):
        sketch = Sketch(not held_out[at], examples[at].file, examples[at].line, signature)
        items[order[at]] = min(items.get(order[at], sketch), sketch)
    return Smallest(SKETCHED, (items,), cutoff)


def _of_its_own(example: Example) -> str:
    """What is said and called, without system prompts, which rows share."""
    if not example.messages:
        return example.text
    turns = [message for message in example.messages if message.role != "system"]
    called = [f"{call.name} {json.dumps(call.arguments)}" for message in turns for call in message.tool_calls]
    return "\n".join([*(message.content for message in turns), *called])


def _starts(examples: Sequence[Example], order: Sequence[int]) -> Smallest[str]:
    pairs = heapq.nsmallest(LANGUAGE_ROWS, zip(order, range(len(order)), strict=True))
    return Smallest(LANGUAGE_ROWS, ({key: said(examples[at])[1 : _START + 1] for key, at in pairs},))


def _near(sketches: Sequence[Sketch]) -> dict[str, Any]:
    trains = np.array([sketch.trains for sketch in sketches], np.bool_)
    pairs, across = near_pairs([sketch.signature for sketch in sketches], trains)
    return {
        "rows": len(pairs),
        "pairs": _told(pairs[:SHOWN], sketches),
        "overlap": len(across),
        "overlap_pairs": _told(across[:SHOWN], sketches),
    }


def _told(pairs: Iterable[tuple[int, int, float]], sketches: Sequence[Sketch]) -> list[dict[str, Any]]:
    def place(sketch: Sketch) -> str:
        return f"{sketch.file}:{sketch.line}"

    return [
        {"row": place(sketches[row]), "like": place(sketches[other]), "similarity": likeness}
        for row, other, likeness in pairs
    ]
