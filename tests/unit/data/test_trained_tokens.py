"""Which tokens carry the loss, worked out by hand: ⟦trained⟧ text, for every setting and many families' templates."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_samples import FAMILIES, marked
from transformers import PreTrainedTokenizerFast

from ftcluster.data.files.source import BadRow
from ftcluster.data.prepared.documents import Document
from ftcluster.data.rows.example import Example, Message
from ftcluster.data.text.chat_template import template_text
from ftcluster.data.text.template import Tokeniser
from ftcluster.errors import DataError

Make = Callable[..., PreTrainedTokenizerFast]
Family = Callable[[str], PreTrainedTokenizerFast]
TALK = (Message("user", "Q"), Message("assistant", "A"), Message("user", "R"), Message("assistant", "B"))


OPENING = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
NEXT = "\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [
        ("answers", f"{OPENING}⟦A<|im_end|>⟧{NEXT}⟦B<|im_end|>⟧"),
        ("last_answer", f"{OPENING}A<|im_end|>{NEXT}⟦B<|im_end|>⟧"),
        ("everything", f"⟦{OPENING}A<|im_end|>{NEXT}B<|im_end|>⟧"),
    ],
)
def test_the_loss_is_where_the_config_says(chatml: PreTrainedTokenizerFast, loss_on: str, expected: str) -> None:
    assert marked(chatml, TALK, loss_on) == expected
    assert marked(chatml, (*TALK, Message("user", "thanks")), loss_on) == expected  # nobody answers that


def test_the_same_tokens_stand_under_every_choice(chatml: PreTrainedTokenizerFast) -> None:
    example = Example("f", 1, (Message("user", "Q"), Message("assistant", "\n\nA"), *TALK[2:]))
    choices = ("answers", "last_answer", "everything")
    documents = [Tokeniser(chatml, "sft", loss_on)([example])[0] for loss_on in choices]
    assert len({tuple(document.tokens.tolist()) for document in documents if isinstance(document, Document)}) == 1


def test_every_token_of_one_short_row(chatml: PreTrainedTokenizerFast) -> None:
    (document,) = Tokeniser(chatml)([Example("f", 1, TALK[:2])])
    assert isinstance(document, Document)
    trained = dict(zip(chatml.convert_ids_to_tokens(document.tokens.tolist()), document.trained.tolist(), strict=False))
    assert {name: trained[name] for name in ("<|im_start|>", "Q", "A", "<|im_end|>")} == {
        "<|im_start|>": False,
        "Q": False,
        "A": True,
        "<|im_end|>": True,  # the last one; the user's is not
    }
    assert document.trained.tolist().count(True) == 2
    assert document.trained[-2:].all()


def test_an_unknown_scope_lists_the_known(chatml: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r'objective\.loss_on: unknown loss_on "answer"') as caught:
        Tokeniser(chatml, "sft", "answer")
    assert caught.value.remedy == "known: answers, last_answer, everything"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("chatml", f"<|endoftext|>{OPENING}⟦A<|im_end|>⟧{NEXT}⟦B<|im_end|>⟧"),
        (
            "alpaca",
            "<|endoftext|>Below is an instruction that describes a task. Write a response that appropriately completes "
            "the request.\n\n### Instruction:\nQ\n\n### Response:\n⟦A<|im_end|>⟧\n\n"
            "### Instruction:\nR\n\n### Response:\n⟦B<|im_end|>⟧",
        ),
        ("plain", "<|endoftext|>Q\n⟦A<|im_end|>⟧\nR\n⟦B<|im_end|>⟧"),
    ],
)
def test_shipped_templates_train_answers_and_the_end_of_text_behind_each(
    make_tokenizer: Make, template: str, expected: str
) -> None:
    tokenizer = make_tokenizer(template_text(template), bos_token="<|endoftext|>")
    assert marked(tokenizer, TALK) == expected


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        ("chatml", "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ"),
        ("alpaca", "S\n\n### Instr"),
        ("plain", "S\n\nQ"),
    ],
)
def test_shipped_templates_take_a_system_turn_and_need_no_beginning_of_text(
    make_tokenizer: Make, template: str, opening: str
) -> None:
    tokenizer = make_tokenizer(template_text(template))
    assert marked(tokenizer, (Message("system", "S"), *TALK)).startswith(opening)


@pytest.mark.parametrize("template", ["chatml", "alpaca", "plain"])
def test_a_base_model_that_knows_no_markers_learns_its_own_end_of_text(make_tokenizer: Make, template: str) -> None:
    tokenizer = make_tokenizer(template_text(template), eos_token="<|endoftext|>")
    assert marked(tokenizer, TALK).endswith("⟦B<|endoftext|>⟧")
    assert Tokeniser(tokenizer).stop_ids() == (tokenizer.convert_tokens_to_ids("<|endoftext|>"),)


SAID = {
    "qwen": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        "<|im_start|>assistant\n⟦A<|im_end|>⟧\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n⟦B<|im_end|>⟧"
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        "⟦A<|eot_id|>⟧<|start_header_id|>user<|end_header_id|>\n\nR<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦B<|eot_id|>⟧"
    ),
    "mistral": "<s>[INST] Q[/INST]⟦ A</s>⟧[INST] R[/INST]⟦ B</s>⟧",
    "gemma": (
        "<bos><start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n⟦A<end_of_turn>⟧\n"
        "<start_of_turn>user\nR<end_of_turn>\n<start_of_turn>model\n⟦B<end_of_turn>⟧"
    ),
    "phi": "<|user|>\nQ<|end|>\n<|assistant|>\n⟦A<|end|>⟧\n<|user|>\nR<|end|>\n<|assistant|>\n⟦B<|end|>⟧",
    "deepseek": ("<|begin|><|User|>Q<|Assistant|>⟦A<|end_of_sentence|>⟧<|User|>R<|Assistant|>⟦B<|end_of_sentence|>⟧"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_learns_its_answers_and_their_end_of_turn(family: Family, name: str) -> None:
    assert marked(family(name), TALK) == SAID[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_stops_at_its_end_of_turn_and_its_end_of_text(family: Family, name: str) -> None:
    tokenizer, (*_, eos, end) = family(name), FAMILIES[name]
    assert set(tokenizer.convert_ids_to_tokens(list(Tokeniser(tokenizer).stop_ids()))) == {eos, end}


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([*FAMILIES, "chatml", "alpaca", "plain"]),
    st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1).filter(str.strip)), min_size=1, max_size=3),
    st.booleans(),
)
def test_whatever_is_said_a_prompt_is_the_beginning_of_its_answered_document(
    family: Family, make_tokenizer: Make, name: str, turns: list[tuple[str, str]], typed: bool
) -> None:
    tokenizer = family(name) if name in FAMILIES else _shipped(make_tokenizer, name)
    tokeniser, control = Tokeniser(tokenizer), tokenizer.all_special_tokens if typed else [""]
    said = [(f"{text}{control[0]}", f"{control[-1]}{answer}") for text, answer in turns]
    talk = tuple(message for text, answer in said for message in (Message("user", text), Message("assistant", answer)))
    (document,) = tokeniser([Example("f", 1, talk)])
    assert isinstance(document, Document), document
    prompt = tokeniser.prompt(talk[:-1])
    assert document.tokens[: len(prompt)].tolist() == prompt
    assert document.trained[len(prompt) :].all()
    assert int(document.tokens[-1]) in tokeniser.stop_ids()
    answer = str(tokenizer.decode(document.tokens[len(prompt) : -1]))
    assert answer.strip() == talk[-1].content.strip()


@cache
def _shipped(make_tokenizer: Make, name: str) -> PreTrainedTokenizerFast:
    return make_tokenizer(template_text(name), bos_token="<|endoftext|>")


def test_a_system_turn_that_the_template_forgets_once_it_is_answered_is_trained_as_it_is_asked(family: Family) -> None:
    tokenizer, talk = family("mistral"), (Message("system", "S"), *TALK)
    assert marked(tokenizer, talk[:3]) == "<s>[INST] S\n\nQ[/INST]⟦ A</s>⟧"
    assert marked(tokenizer, talk, "last_answer") == "<s>[INST] Q[/INST] A</s>[INST] S\n\nR[/INST]⟦ B</s>⟧"
    assert tokenizer.decode(Tokeniser(tokenizer).prompt(talk[:2])) == "<s>[INST] S\n\nQ[/INST]"


LAST_IS_SPECIAL = (
    "{% for m in messages %}{% if loop.revindex <= 2 and m.role == 'user' %}{{ '!' }}{% endif %}"
    "{{ m.content + '<|im_end|>' }}{% endfor %}"
)


def test_a_template_that_rewrites_the_past_still_trains_the_last_answer(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer(LAST_IS_SPECIAL)
    (bad,) = Tokeniser(tokenizer)([Example("rows.jsonl", 5, TALK)])
    assert isinstance(bad, BadRow)
    assert bad.reason == "the chat template opens an answer in another way than it asks for one"
    assert bad.detail == "objective.loss_on=last_answer needs only the last one"
    assert marked(tokenizer, TALK, "last_answer") == "Q<|im_end|>A<|im_end|>!R<|im_end|>⟦B<|im_end|>⟧"
    assert tokenizer.decode(Tokeniser(tokenizer).prompt(TALK[:3])) == "Q<|im_end|>A<|im_end|>!R<|im_end|>"
