"""The work on one block of rows: rows -> examples -> sides -> tokens, as arrays that travel cheaply.

This is what worker processes do (``workers``). It depends on the block and the settings alone, so the result is the
same in any process; what depends on other blocks (limits, copies, counts) is ``assembly``'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftcluster.data.audit import Facts, control_tokens, examine
from ftcluster.data.files.blocks import rows
from ftcluster.data.files.source import BadRow, Row
from ftcluster.data.prepared.documents import Document
from ftcluster.data.prepared.lengths import Fitted, fit
from ftcluster.data.prepared.settings import DataSettings
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.formats import to_example
from ftcluster.data.rows.reading import Work
from ftcluster.data.rows.split import SPLITS, assign, key, subset_key
from ftcluster.data.text.spans import Tokenizer
from ftcluster.data.text.template import Tokeniser, prompt_of
from ftcluster.errors import DataError

_AT_ONCE = 1000  # examples tokenised at a time
TRAIN = SPLITS.index("train")


@dataclass(frozen=True)
class Problem:
    """Why example ``index`` has no document; ``bad``: it cannot be used, rather than that a setting excludes it."""

    index: int
    row: BadRow
    bad: bool


@dataclass(frozen=True)
class Chunk:
    """What became of a block. Arrays of E entries belong to its examples, those of D to their documents."""

    unread: tuple[BadRow, ...]  # rows that are no examples
    lines_E: NDArray[np.int64]
    keys_E: NDArray[np.uint64]
    sides_E: NDArray[np.uint8]  # index into SPLITS
    documents_E: NDArray[np.int32]  # how many each became
    uncut_E: NDArray[np.int64]  # tokens before any cut, 0 where it was not tokenised
    lengths_D: NDArray[np.int64]
    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    questions: tuple[str, ...]  # of the held-out documents
    problems: tuple[Problem, ...]
    cuts: tuple[tuple[int, str], ...]  # example and what was done to it
    facts: Facts


@dataclass
class _Made:
    """Documents of a block while they are made."""

    documents: list[Document] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    cuts: list[tuple[int, str]] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    uncut: dict[int, int] = field(default_factory=dict)


class Stage:
    """Turns blocks into chunks, for one tokenizer and settings."""

    def __init__(self, settings: DataSettings, tokenizer: Tokenizer) -> None:
        self._settings = settings
        self._tokeniser = Tokeniser(tokenizer, settings.objective, settings.loss_on)
        self._control = control_tokens(tokenizer)

    def __call__(self, work: Work) -> Chunk:
        """The chunk of one block."""
        examples, unread = _examples(work)
        keys = [key(example) for example in examples]
        sides = [SPLITS.index(work.file.side or self._side(one)) for one in keys]
        held_out = [side != TRAIN for side in sides]
        subset_keys = [subset_key(one) for one in keys]
        wanted = [i for i in range(len(keys)) if held_out[i] or subset_keys[i] < work.below]
        made, facts = _Made(), Facts()
        if not work.only_keys:
            for at in range(0, len(wanted), _AT_ONCE):
                self._tokenise(examples, wanted[at : at + _AT_ONCE], held_out, made)
            left_out = set(range(len(examples))) - made.counts.keys()
            facts = examine(examples, keys, held_out, self._control, work.cutoff, left_out)
        return _chunk(examples, unread, subset_keys, sides, made, facts)

    def _side(self, example_key: bytes) -> Any:
        return assign(example_key, self._settings.fraction("validation"), self._settings.fraction("test"))

    def _tokenise(
        self, examples: Sequence[Example], wanted: Sequence[int], held_out: Sequence[bool], made: _Made
    ) -> None:
        if self._settings.objective == "sft":
            refused = [index for index in wanted if examples[index].label is False]
            made.problems += (_excluded(examples, i, "thumbs down: sft trains rows with a thumb up") for i in refused)
            wanted = [index for index in wanted if examples[index].label is not False]
        for index, outcome in zip(wanted, self._tokeniser([examples[i] for i in wanted]), strict=True):
            if isinstance(outcome, BadRow):
                made.problems.append(Problem(index, outcome, bad=True))
                continue
            made.uncut[index] = len(outcome.tokens)
            fitted = self._fit(outcome)
            if fitted.dropped:
                made.problems.append(_excluded(examples, index, fitted.dropped))
                continue
            made.counts[index] = len(fitted.documents)
            made.documents += fitted.documents
            made.cuts += ((index, cut) for cut in fitted.cuts)
            if self._tokeniser.writes_tools_as_text(examples[index]):
                made.cuts.append((index, "tools and calls written as text, as the chat template knows none"))
            if held_out[index]:
                made.questions += self._questions(examples[index], index, fitted, made)

    def _fit(self, document: Document) -> Fitted:
        settings = self._settings
        answers = settings.objective == "sft" and settings.loss_on != "everything"
        return fit(document, settings.too_long, settings.max_length, answers=answers)

    def _questions(self, example: Example, index: int, fitted: Fitted, made: _Made) -> Iterator[str]:
        """One for each document; only the first asks, and only what the model can read whole."""
        messages, _ = prompt_of(example)
        reference = self._tokeniser.reference(example)
        if messages and fitted.cuts and not self._is_readable(example):
            made.cuts.append((index, f"not asked: its prompt is longer than {self._settings.max_length} tokens"))
            messages = ()
        chat = [message.as_chat() for message in messages]
        tools = {"tools": example.tools} if example.tools and chat else {}
        yield json.dumps({"messages": chat, "reference": reference, **tools}, ensure_ascii=False)
        yield from ['{"messages": [], "reference": ""}'] * (len(fitted.documents) - 1)

    def _is_readable(self, example: Example) -> bool:
        messages, _ = prompt_of(example)
        try:
            return len(self._tokeniser.prompt(messages, example.tools)) <= self._settings.max_length
        except DataError:  # a template that renders the conversation and not its beginning
            return False


def make_stage(settings: DataSettings, load: Callable[[], Tokenizer]) -> Stage:
    """What a worker starts with."""
    return Stage(settings, load())


def _examples(work: Work) -> tuple[list[Example], list[BadRow]]:
    examples: list[Example] = []
    unread: list[BadRow] = []
    for row in rows(work.block):
        found = to_example(row, work.format, work.file.columns) if isinstance(row, Row) else row
        if isinstance(found, BadRow):
            unread.append(found)
        else:
            examples.append(replace(found, source=work.file.source_name) if work.file.source_name else found)
    return examples, unread


def _excluded(examples: Sequence[Example], index: int, reason: str) -> Problem:
    return Problem(index, BadRow(examples[index].file, examples[index].line, reason), bad=False)


def _chunk(
    examples: Sequence[Example],
    unread: Sequence[BadRow],
    keys: Sequence[int],
    sides: Sequence[int],
    made: _Made,
    facts: Facts,
) -> Chunk:
    documents = made.documents
    every = range(len(examples))
    return Chunk(
        unread=tuple(unread),
        lines_E=np.array([example.line for example in examples], np.int64),
        keys_E=np.array(keys, np.uint64),
        sides_E=np.array(sides, np.uint8),
        documents_E=np.array([made.counts.get(index, 0) for index in every], np.int32),
        uncut_E=np.array([made.uncut.get(index, 0) for index in every], np.int64),
        lengths_D=np.array([len(document.tokens) for document in documents], np.int64),
        tokens=np.concatenate([np.empty(0, np.int32), *(document.tokens for document in documents)]),
        trained=np.concatenate([np.empty(0, np.bool_), *(document.trained for document in documents)]),
        questions=tuple(made.questions),
        problems=tuple(sorted(made.problems, key=lambda problem: problem.index)),
        cuts=tuple(made.cuts),
        facts=facts,
    )
