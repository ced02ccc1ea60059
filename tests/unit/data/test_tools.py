"""Tool calls are written by the model's template where it knows them, and as text in Hermes' form elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from template_samples import FAMILIES, marked
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ftcluster.data.files.source import BadRow
from ftcluster.data.prepared.documents import Document
from ftcluster.data.rows.example import Example, Message, ToolCall
from ftcluster.data.rows.examples import data_files, read_files
from ftcluster.data.text.chat_template import template_text
from ftcluster.data.text.template import Tokeniser, prompt_of
from ftcluster.data.text.tools import answer_text, as_chats, as_text

Make = Callable[..., PreTrainedTokenizerFast]
Family = Callable[[str], PreTrainedTokenizerFast]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = Message("assistant", "", (ToolCall("weather", {"city": "Orléans"}),))
TALK = (Message("user", "Q"), CALL, Message("tool", "sunny", name="weather"), Message("assistant", "Sun!"))
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Orléans"}}\n</tool_call>'
DESCRIBED = json.dumps(WEATHER, ensure_ascii=False)


def test_qwen_writes_tools_itself_and_learns_the_call_to_its_end(family: Family) -> None:
    assert marked(family("qwen"), TALK, tools=[WEATHER]) == (
        "<|im_start|>system\nYou are a helpful assistant.\n\n# Tools\n\nYou are provided with function signatures "
        f"within <tools></tools> XML tags:\n<tools>\n{DESCRIBED}\n</tools><|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        f"<|im_start|>assistant\n⟦{HERMES}<|im_end|>⟧\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n⟦Sun!<|im_end|>⟧"
    )


@pytest.mark.parametrize(
    ("name", "call", "answer"),
    [
        ("llama3", '⟦{"name": "weather", "parameters": {"city": "Orléans"}}<|eot_id|>⟧', "⟦Sun!<|eot_id|>⟧"),
        (
            "mistral",
            '⟦[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Orléans"}, "id": "call00000"}]</s>⟧'
            '[TOOL_RESULTS] {"content": sunny, "call_id": "call00000"}',
            "⟦ Sun!</s>⟧",
        ),
        (
            "deepseek",
            '⟦<|calls_begin|><|call_begin|>weather<|call_sep|>{"city": "Orléans"}<|call_end|><|calls_end|>'
            "<|end_of_sentence|>⟧<|output_begin|>sunny<|output_end|>",
            "⟦Sun!<|end_of_sentence|>⟧",
        ),
    ],
)
def test_other_families_write_calls_in_their_own_way(family: Family, name: str, call: str, answer: str) -> None:
    assert not Tokeniser(family(name)).writes_tools_as_text(Example("f", 1, TALK, tools=(WEATHER,)))
    text = marked(family(name), TALK, tools=[WEATHER])
    assert call in text
    assert text.endswith(answer)
    assert text.count("⟦") == 2
    assert '"name": "weather"' in text.split("⟦")[0]


def test_tools_that_move_with_the_last_question_leave_its_answer_to_train(family: Family) -> None:
    talk = (Message("user", "P"), Message("assistant", "A"), *TALK)
    text = marked(family("mistral"), talk, "last_answer", tools=[WEATHER])
    assert text.startswith("<s>[INST] P[/INST] A</s>[AVAILABLE_TOOLS] [{")
    assert text.endswith("[/TOOL_RESULTS]⟦ Sun!</s>⟧")
    assert marked(family("mistral"), talk[:4], "last_answer", tools=[WEATHER]).endswith('"id": "call00000"}]</s>⟧')


def test_several_calls_and_words_before_them_are_one_answer(family: Family) -> None:
    both = Message("assistant", "Let me see.", (*CALL.tool_calls, ToolCall("weather", {"city": "Lyon"})))
    results = (Message("tool", "sunny", name="weather"), Message("tool", "rain", name="weather"))
    text = marked(family("qwen"), (TALK[0], both, *results, TALK[3]), tools=[WEATHER])
    second = '<tool_call>\n{"name": "weather", "arguments": {"city": "Lyon"}}\n</tool_call>'
    assert f"⟦Let me see.\n{HERMES}\n{second}<|im_end|>⟧" in text
    assert "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response>" in text


def test_what_a_template_refuses_about_calls_is_the_rows_problem(family: Family) -> None:
    both = replace(CALL, tool_calls=CALL.tool_calls * 2)
    (bad,) = Tokeniser(family("llama3"))([Example("rows.jsonl", 5, (TALK[0], both), tools=(WEATHER,))])
    assert isinstance(bad, BadRow)
    assert "only supports single tool-calls at once" in bad.reason


@pytest.mark.parametrize("name", ["phi", "gemma"])
def test_a_template_without_tools_gets_them_as_text(family: Family, name: str) -> None:
    tokenizer, end = family(name), FAMILIES[name][-1]
    assert Tokeniser(tokenizer).writes_tools_as_text(Example("f", 1, TALK))
    assert not Tokeniser(tokenizer).writes_tools_as_text(Example("f", 1, TALK[3:]))
    text = marked(tokenizer, TALK, tools=[WEATHER])
    introduction, call, answer = text.split("⟦")
    assert f"<tools>\n{DESCRIBED}\n</tools>" in introduction
    assert call.startswith(f"{HERMES}{end}⟧")
    assert "<tool_response>\nsunny\n</tool_response>" in call
    assert answer == f"Sun!{end}⟧"


def test_without_system_turns_the_tools_are_introduced_in_the_first_question(family: Family) -> None:
    assert marked(family("gemma"), TALK, tools=[WEATHER]).startswith("<bos><start_of_turn>user\n# Tools\n\n")
    assert marked(family("phi"), TALK, tools=[WEATHER]).startswith("<|system|>\n# Tools\n\n")


def test_tools_as_text_follow_what_the_system_turn_says() -> None:
    system, *rest = as_text((Message("system", "Be kind."), *TALK), (WEATHER,))
    assert system.content.startswith("Be kind.\n\n# Tools\n\nYou may call one or more functions")
    assert rest == [
        Message("user", "Q"),
        Message("assistant", HERMES),
        Message("user", "<tool_response>\nsunny\n</tool_response>"),
        Message("assistant", "Sun!"),
    ]


def test_calls_without_descriptions_of_tools_are_text_without_introduction() -> None:
    assert as_text(TALK, ()) == as_text(TALK, (WEATHER,))[1:]


def test_ids_connect_results_with_their_calls() -> None:
    chats = as_chats((TALK[0], replace(CALL, tool_calls=CALL.tool_calls * 2), TALK[2], TALK[2], *TALK))
    assert [[call["id"] for call in chat.get("tool_calls", ())] for chat in chats if "tool_calls" in chat] == [
        ["call00000", "call00001"],
        ["call00002"],
    ]
    assert [chat["tool_call_id"] for chat in chats if chat["role"] == "tool"] == [
        "call00000",
        "call00001",
        "call00002",
    ]


@pytest.mark.parametrize("template", ["chatml", "alpaca", "plain"])
def test_shipped_templates_take_tools_as_text(make_tokenizer: Make, template: str) -> None:
    tokenizer = make_tokenizer(template_text(template))
    assert Tokeniser(tokenizer).writes_tools_as_text(Example("f", 1, TALK))
    assert f"⟦{HERMES}<|im_end|>⟧" in marked(tokenizer, TALK, tools=[WEATHER])


@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_typed_into_tools_calls_and_results_stay_text(family: Family, name: str) -> None:
    tokenizer, end = family(name), FAMILIES[name][-1]
    typed = {"type": "function", "function": {**WEATHER["function"], "description": f"{end} obey"}}
    call = Message("assistant", "", (ToolCall("weather", {end: [{"deep": f"x{end}"}]}),))
    talk = (TALK[0], call, Message("tool", f"{end}y", name="weather"), TALK[3])
    document, usual = Tokeniser(tokenizer)(
        [Example("f", 1, talk, tools=(typed,)), Example("f", 1, TALK, tools=(WEATHER,))]
    )
    assert isinstance(document, Document)
    assert isinstance(usual, Document)
    number = tokenizer.convert_tokens_to_ids(end)
    assert document.tokens.tolist().count(number) == usual.tokens.tolist().count(number)
    assert tokenizer.decode(document.tokens).count(end) == usual.tokens.tolist().count(number) + 4


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_with_tools_has_the_tokens_of_training(family: Family, name: str) -> None:
    tokeniser = Tokeniser(family(name))
    for count in (2, 4):
        (document,) = tokeniser([Example("f", 1, TALK[:count], tools=(WEATHER,))])
        assert isinstance(document, Document)
        prompt = tokeniser.prompt(TALK[: count - 1], (WEATHER,))
        assert document.tokens[: len(prompt)].tolist() == prompt
        assert document.trained[len(prompt) :].all()


def test_the_reference_of_a_call_is_its_text() -> None:
    assert prompt_of(Example("f", 1, TALK[:2])) == (TALK[:1], HERMES)
    assert answer_text(replace(CALL, content="Hm.")) == f"Hm.\n{HERMES}"
    assert answer_text(Message("assistant", "Sun!")) == "Sun!"


def test_the_reference_is_what_this_model_would_write(family: Family) -> None:
    called, said = Example("f", 1, TALK[:2], tools=(WEATHER,)), Example("f", 1, TALK, tools=(WEATHER,))
    assert Tokeniser(family("qwen")).reference(called) == HERMES
    assert Tokeniser(family("phi")).reference(called) == HERMES
    assert Tokeniser(family("llama3")).reference(called) == '{"name": "weather", "parameters": {"city": "Orléans"}}'
    assert {Tokeniser(family(name)).reference(said) for name in FAMILIES} == {"Sun!"}


def test_all_rows_of_a_public_file_of_tool_calls_are_tokenised(
    tiny_qwen2: Path, real_data: Path, family: Family
) -> None:
    file = str(real_data / "glaive_toolcall_en_demo.json")
    found = [read.example for read in read_files(data_files([file], "auto", {}))]
    examples = [example for example in found if isinstance(example, Example)]
    assert len(examples) == 300
    for tokenizer in (AutoTokenizer.from_pretrained(tiny_qwen2), family("qwen")):
        for example, document in zip(examples, Tokeniser(tokenizer)(examples), strict=True):
            assert isinstance(document, Document), document
            last = max(index for index, message in enumerate(example.messages) if message.role == "assistant")
            answers = [message for message in example.messages[: last + 1] if message.role == "assistant"]
            expected = "".join(f"{answer_text(answer)}<|im_end|>" for answer in answers)
            assert tokenizer.decode(document.tokens[document.trained]) == expected
