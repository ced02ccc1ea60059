"""Tokens and flags of real rows equal those of the plainest way to make them: transformers' calls, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from template_samples import FAMILIES
from transformers import AutoTokenizer

from ftcluster.data.prepared.documents import Document
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.examples import data_files, read_files
from ftcluster.data.text.template import Tokeniser
from ftcluster.data.text.tools import as_chats, as_text, uses_tools

END = "<|im_end|>"
FILES = [
    "alpaca_en_demo.json",
    "c4_demo.jsonl",
    "dpo_en_demo.json",
    "glaive_toolcall_en_demo.json",
    "gsm8k_test.jsonl",
    "identity.json",
    "kto_en_demo.json",
]


@cache
def examples(file: Path) -> list[Example]:
    """The first rows of a file."""
    found = (read.example for read in islice(read_files(data_files([str(file)], "auto", {})), 300))
    return [example for example in found if isinstance(example, Example)]


@pytest.fixture(scope="module", params=["plain ChatML", "Qwen with tools"])
def tokenizer(request: pytest.FixtureRequest, tiny_qwen2: Path) -> Any:
    """A tiny model's, whose template has no tools, and the same with one that writes them."""
    made = AutoTokenizer.from_pretrained(tiny_qwen2)
    if request.param == "Qwen with tools":
        made.chat_template = FAMILIES["qwen"][0]
    return made


def pieces(example: Example, tokenizer: Any) -> Iterator[tuple[str, bool]]:
    """Text and whether it is trained: every answer from where it is asked for to the end of its turn."""
    if not example.messages:
        yield example.text + END, True
        return
    knows_tools = "tool_call" in tokenizer.chat_template
    tools = list(example.tools) if knows_tools else None
    messages = example.messages
    if uses_tools(messages, example.tools) and not knows_tools:
        messages = tuple(as_text(messages, example.tools))
    chats = as_chats(messages)
    answers = [index for index, chat in enumerate(chats) if chat["role"] == "assistant"]
    text = tokenizer.apply_chat_template(chats[: answers[-1] + 1], tools=tools or None, tokenize=False)
    at = 0
    for index in answers:
        opening = tokenizer.apply_chat_template(
            chats[:index], tools=tools or None, tokenize=False, add_generation_prompt=True
        )
        assert text.startswith(opening)
        end = text.index(END, len(opening)) + len(END)
        yield text[at : len(opening)], False
        yield text[len(opening) : end], True
        at = end


@pytest.mark.parametrize("file", FILES)
def test_every_row_has_the_tokens_and_flags_of_the_plain_way(file: str, tokenizer: Any, real_data: Path) -> None:
    rows = examples(real_data / file)
    assert len(rows) > 80
    objective = "sft" if rows[0].messages else "pretrain"
    for example, document in zip(rows, Tokeniser(tokenizer, objective)(rows), strict=True):
        assert isinstance(document, Document), document
        cut = list(pieces(example, tokenizer))
        encoded = [(tokenizer(text, add_special_tokens=False)["input_ids"], trained) for text, trained in cut]
        assert document.tokens.tolist() == [token for tokens, _ in encoded for token in tokens]
        assert document.trained.tolist() == [trained for tokens, trained in encoded for _ in tokens]
