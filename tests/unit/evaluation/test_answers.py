"""Questions are asked in training's own template and answers are judged by exact match."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ftcluster.contracts.ports import BASE_SLOT
from ftcluster.data.formats import Message
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.precision import Precision
from ftcluster.errors import DataError
from ftcluster.evaluation.answers import answer, exact_match, tokeniser_of
from ftcluster.models.base import load_base, load_tokenizer


@pytest.fixture(scope="module")
def engine(tiny_qwen2: Path) -> LocalEngine:
    torch.set_num_threads(1)
    return LocalEngine(lambda: load_base(tiny_qwen2), Precision(torch.float32))


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_answers_are_what_the_model_continues_the_chat_template_with(engine: LocalEngine) -> None:
    tokenizer = engine.base.tokenizer
    texts = ["The quick brown fox", "请帮我"]
    found = answer(engine, BASE_SLOT, tokenizer, [asked(text) for text in texts], 6)
    for text, one in zip(texts, found, strict=True):
        prompt = tokenizer.apply_chat_template(asked(text), add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        (row,) = engine.generate(BASE_SLOT, [ids], 6, tokeniser_of(tokenizer).stop_ids())
        assert one.text == tokenizer.decode(row, skip_special_tokens=True).strip()


def test_an_answer_is_finished_only_if_it_stopped_by_itself(engine: LocalEngine) -> None:
    tokenizer = engine.base.tokenizer
    (cut,) = answer(engine, BASE_SLOT, tokenizer, [asked("The quick")], 3)
    assert not cut.finished
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop in tokeniser_of(tokenizer).stop_ids()
    ids = tokeniser_of(tokenizer).prompt([Message("user", "The quick")])
    always = engine.base.model.get_output_embeddings()
    hook = always.register_forward_hook(lambda *args: args[2].index_fill(-1, torch.tensor([stop]), 1e6))
    try:
        assert engine.generate(BASE_SLOT, [ids], 3) == [[stop]]
        (ended,) = answer(engine, BASE_SLOT, tokenizer, [asked("The quick")], 1)
    finally:
        hook.remove()
    assert (ended.text, ended.finished) == ("", True)


def test_nobody_asked_nobody_answers(engine: LocalEngine) -> None:
    assert answer(engine, BASE_SLOT, engine.base.tokenizer, [], 3) == []


def test_a_tokenizer_without_chat_template_cannot_be_asked(engine: LocalEngine, tiny_qwen2: Path) -> None:
    tokenizer = load_tokenizer(tiny_qwen2)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="chat template"):
        answer(engine, BASE_SLOT, tokenizer, [asked("The quick")], 3)


def test_exact_match_is_the_share_of_equal_answers_after_trimming() -> None:
    assert exact_match([" It is 4.\n", "it is 4.", "It is 4", "是"], ["It is 4.", "It is 4.", "It is 4.", "是 "]) == 0.5


def test_answers_and_references_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match="zip"):
        exact_match(["a"], ["a", "b"])
