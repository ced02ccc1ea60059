"""Answers to held-out prompts and how they are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftcluster.contracts.ports import Engine

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Answer:
    """What a model wrote; ``finished`` says whether it stopped by itself."""

    text: str
    finished: bool


def prompt_tokens(tokenizer: Any, messages: Messages) -> list[int]:
    """A conversation up to where the assistant begins to speak, through the model's own chat template."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def answer(engine: Engine, slot: int, tokenizer: Any, prompts: Sequence[Messages], max_new_tokens: int) -> list[Answer]:
    """Greedy answers of one trial (or of ``BASE_SLOT``) to each prompt."""
    rows = engine.generate(slot, [prompt_tokens(tokenizer, p) for p in prompts], max_new_tokens)
    return [
        Answer(
            tokenizer.decode(row, skip_special_tokens=True).strip(),
            len(row) < max_new_tokens or _stopped(tokenizer, row),
        )
        for row in rows
    ]


def _stopped(tokenizer: Any, row: list[int]) -> bool:
    return bool(row) and row[-1] in tokenizer.all_special_ids


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """Share of answers that equal their reference after trimming outer white space, 0 to 1."""
    pairs = list(zip(answers, references, strict=True))
    return sum(a.strip() == r.strip() for a, r in pairs) / len(pairs)
