"""Answers side by side: for each test prompt the reference, the base and the best few, with what differs marked.

Texts are compared piece by piece, where a piece is a word, a number, or a single character of anything else:
Chinese is written without spaces, so there a word is no unit one could cut at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from ftcluster.comparison.findings import Comparison
from ftcluster.contracts.evidence import TestRecord

_PIECES = re.compile(r"[^\W\d_\u2E80-\u9FFF\uAC00-\uD7AF\uF900-\uFAFF]+|\d+|\s+|.", re.DOTALL)
_LONGEST = 4000  # characters compared; the marking of longer texts would take quadratic time
MOST_PROMPTS = 200


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer; ``differs`` where the reference has something else there.

    An empty one that differs is a gap: the reference has ``missing`` there, and the answer nothing.
    """

    text: str
    differs: bool
    missing: str = ""


@dataclass(frozen=True)
class Written:
    """One subject's answer to one prompt."""

    subject: str
    right: bool
    finished: bool
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """The answer itself."""
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True)
class Question:
    """One test prompt with everybody's answers; the tags say in which view of the page it is shown."""

    number: int
    prompt: str
    reference: str
    answers: tuple[Written, ...]
    tags: tuple[str, ...]


def questions(comparison: Comparison) -> list[Question]:
    """Prompts in the order of the drawn test rows; empty where no answers were written."""
    tested = [contender.record for contender in comparison.tested if contender.record]
    records = [record for record in [comparison.base, *tested] if record and record.answers]
    if not records:
        return []
    count = min(MOST_PROMPTS, *(len(record.answers) for record in records))
    best = next((record for record in tested if record.answers), None)
    return [_question(at, records, comparison.base, best) for at in range(count)]


def _question(at: int, records: list[TestRecord], base: TestRecord | None, best: TestRecord | None) -> Question:
    reference = records[0].references[at]
    written = tuple(
        Written(r.subject, r.correct[at], r.finished[at], tuple(marked(r.answers[at], reference))) for r in records
    )
    return Question(at + 1, records[0].prompts[at], reference, written, tuple(_tags(at, written, base, best)))


def _tags(at: int, written: tuple[Written, ...], base: TestRecord | None, best: TestRecord | None) -> Iterator[str]:
    if len({answer.right for answer in written}) > 1:
        yield "disagree"
    if best and not best.correct[at]:
        yield "wrong"
    if base and best and base.answers and base.correct[at] != best.correct[at]:
        yield "gained" if best.correct[at] else "lost"


def marked(answer: str, reference: str) -> Iterator[Piece]:
    """The answer cut where it leaves the reference and comes back to it."""
    if answer.strip() == reference.strip() or max(len(answer), len(reference)) > _LONGEST:
        yield Piece(answer, answer.strip() != reference.strip() and not reference)
        return
    ours, theirs = _PIECES.findall(answer), _PIECES.findall(reference)
    for kind, begin, end, start, stop in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        missing = "".join(theirs[start:stop]) if kind == "insert" else ""
        yield Piece("".join(ours[begin:end]), kind != "equal", missing)
