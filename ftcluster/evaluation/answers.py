"""Answers to held-out prompts and how they are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ftcluster.contracts.ports import Engine
from ftcluster.data.prepared.folder import HeldOut
from ftcluster.data.text.template import Tokeniser


@dataclass(frozen=True)
class Answer:
    """What a model wrote; ``finished`` says whether it stopped by itself."""

    text: str
    finished: bool


@lru_cache(maxsize=4)
def tokeniser_of(tokenizer: Any) -> Tokeniser:
    """The tokeniser of training, so that a prompt is asked exactly as it was learnt; made once per tokenizer."""
    return Tokeniser(tokenizer)


def answer(
    engine: Engine, slot: int, tokenizer: Any, questions: Sequence[HeldOut], max_new_tokens: int
) -> list[Answer]:
    """Greedy answers of one trial (or of ``BASE_SLOT``) to conversations that end with a question.

    Raises:
        DataError: the tokenizer has no chat template, or it refuses a conversation.
    """
    tokeniser = tokeniser_of(tokenizer)
    stops = tokeniser.stop_ids()
    asked = [tokeniser.prompt(question.messages, question.tools) for question in questions]
    written = engine.generate(slot, asked, max_new_tokens, stops)
    return [
        Answer(tokenizer.decode(row, skip_special_tokens=True).strip(), bool(row) and row[-1] in stops)
        for row in written
    ]


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """Share of answers that equal their reference after trimming outer white space, 0 to 1."""
    pairs = list(zip(answers, references, strict=True))
    return sum(a.strip() == r.strip() for a, r in pairs) / len(pairs)
