"""Questions are asked in training's own template and answers are judged by exact match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ftcluster.contracts.ports import BASE_SLOT
from ftcluster.data.prepared.folder import HeldOut
from ftcluster.data.rows.example import Message, ToolCall
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.precision import Precision
from ftcluster.errors import DataError
from ftcluster.evaluation.answers import answer, exact_match, tokeniser_of
from ftcluster.models.base import load_base
from ftcluster.models.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def engine(tiny_qwen2: Path) -> LocalEngine:
    torch.set_num_threads(1)
    return LocalEngine(lambda: load_base(tiny_qwen2), Precision(torch.float32))


def asked(*turns: Message, tools: Sequence[Mapping[str, Any]] = ()) -> HeldOut:
    return HeldOut(turns, "", "rows.jsonl", 1, tuple(tools))


def question(text: str) -> HeldOut:
    return asked(Message("user", text))


def test_answers_are_what_the_model_continues_the_chat_template_with(engine: LocalEngine) -> None:
    tokenizer = engine.base.tokenizer
    texts = ["The quick brown fox", "请帮我"]
    found = answer(engine, BASE_SLOT, tokenizer, [question(text) for text in texts], 6)
    for text, one in zip(texts, found, strict=True):
        chat = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        (row,) = engine.generate(BASE_SLOT, [ids], 6, tokeniser_of(tokenizer).stop_ids())
        assert one.text == tokenizer.decode(row, skip_special_tokens=True).strip()


def test_an_answer_is_finished_only_if_it_stopped_by_itself(engine: LocalEngine) -> None:
    tokenizer = engine.base.tokenizer
    (cut,) = answer(engine, BASE_SLOT, tokenizer, [question("The quick")], 3)
    assert not cut.finished
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop in tokeniser_of(tokenizer).stop_ids()
    ids = tokeniser_of(tokenizer).prompt([Message("user", "The quick")])
    always = engine.base.model.get_output_embeddings()
    hook = always.register_forward_hook(lambda *args: args[2].index_fill(-1, torch.tensor([stop]), 1e6))
    try:
        assert engine.generate(BASE_SLOT, [ids], 3) == [[stop]]
        (ended,) = answer(engine, BASE_SLOT, tokenizer, [question("The quick")], 1)
    finally:
        hook.remove()
    assert (ended.text, ended.finished) == ("", True)


def test_tools_and_earlier_calls_are_part_of_what_is_asked(engine: LocalEngine) -> None:
    tokenizer = engine.base.tokenizer
    tool = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {}}}
    turns = (
        Message("user", "The quick"),
        Message("assistant", "", (ToolCall("weather", {"city": "Paris"}),)),
        Message("tool", "sunny"),
    )
    (with_tools,) = answer(engine, BASE_SLOT, tokenizer, [asked(*turns, tools=[tool])], 6)
    prompt = tokeniser_of(tokenizer).prompt(turns, (tool,))
    written = str(tokenizer.decode(prompt))
    assert all(text in written for text in ('"name": "weather"', '"city": "Paris"', "sunny"))
    (row,) = engine.generate(BASE_SLOT, [prompt], 6, tokeniser_of(tokenizer).stop_ids())
    assert with_tools.text == tokenizer.decode(row, skip_special_tokens=True).strip()


def test_nobody_asked_nobody_answers(engine: LocalEngine) -> None:
    assert answer(engine, BASE_SLOT, engine.base.tokenizer, [], 3) == []


def test_a_tokenizer_without_chat_template_cannot_be_asked(engine: LocalEngine, tiny_qwen2: Path) -> None:
    tokenizer = load_tokenizer(tiny_qwen2)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="chat template"):
        answer(engine, BASE_SLOT, tokenizer, [question("The quick")], 3)


def test_exact_match_is_the_share_of_equal_answers_after_trimming() -> None:
    assert exact_match([" It is 4.\n", "it is 4.", "It is 4", "是"], ["It is 4.", "It is 4.", "It is 4.", "是 "]) == 0.5


def test_answers_and_references_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match="zip"):
        exact_match(["a"], ["a", "b"])
