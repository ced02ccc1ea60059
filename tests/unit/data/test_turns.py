"""Tool calls, their results and content in parts become the same turns from OpenAI's and from ShareGPT's form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.data.rows.example import Message, ToolCall, message_from
from ftcluster.data.rows.turns import UnusableError, read_turns

CALL = ToolCall("weather", {"city": "Köln", "days": 2})
ASKED = Message("user", "Rain tomorrow?")
TURNS = (
    ASKED,
    Message("assistant", "", (CALL,)),
    Message("tool", '{"rain": 0.2}', name="weather"),
    Message("assistant", "No."),
)


def _openai(arguments: object, **result: str) -> list[dict[str, Any]]:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return [
        {"role": "user", "content": "Rain tomorrow?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": '{"rain": 0.2}', **result},
        {"role": "assistant", "content": "No."},
    ]


def _sharegpt(call: str) -> list[dict[str, str]]:
    return [
        {"from": "human", "value": "Rain tomorrow?"},
        {"from": "function_call", "value": call},
        {"from": "observation", "value": '{"rain": 0.2}'},
        {"from": "gpt", "value": "No."},
    ]


@pytest.mark.parametrize(
    "turns",
    [
        _openai(json.dumps(CALL.arguments), tool_call_id="call_1"),
        _openai(CALL.arguments, tool_call_id="call_1"),
        _openai(CALL.arguments, name="weather"),
        _openai(CALL.arguments),
        _sharegpt(json.dumps({"name": "weather", "arguments": CALL.arguments})),
        _sharegpt(json.dumps([{"name": "weather", "arguments": json.dumps(CALL.arguments)}])),
    ],
)
def test_a_call_and_its_result_are_the_same_from_every_form(turns: list[Any]) -> None:
    assert read_turns(turns, "messages") == TURNS


def test_the_older_form_of_calls_is_known() -> None:
    turns = [
        {"role": "assistant", "content": "Wait.", "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "rain"},
    ]
    assert read_turns(turns, "messages") == (
        Message("assistant", "Wait.", (ToolCall("weather", {}),)),
        Message("tool", "rain", name="weather"),
    )


def test_of_several_calls_a_result_belongs_to_the_one_it_names_and_to_none_by_guessing() -> None:
    calls = [{"id": name, "function": {"name": name}} for name in ("a", "b")]
    turns = [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "1", "tool_call_id": "b"},
        {"role": "tool", "content": "2"},
    ]
    messages = read_turns(turns, "messages")
    assert messages[0].tool_calls == (ToolCall("a", {}), ToolCall("b", {}))
    assert [message.name for message in messages[1:]] == ["b", ""]


def test_text_in_parts_is_put_together() -> None:
    parts = [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "world"}]
    assert read_turns([{"role": "user", "content": parts}], "messages") == (Message("user", "Hello, world"),)


def test_one_turn_alone_is_a_list_of_one() -> None:
    assert read_turns({"from": "gpt", "value": "a", "weight": 1}, "chosen") == (Message("assistant", "a"),)


@pytest.mark.parametrize(
    ("turn", "reason", "detail"),
    [
        ({"role": "assistant", "tool_calls": {"a": 1}}, "tool_calls is not a list", "chosen[0]"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "a tool call without a name", "chosen[0]"),
        ({"role": "assistant", "tool_calls": ["weather"]}, "a tool call without a name", "chosen[0]"),
        (
            {"role": "assistant", "tool_calls": [{"name": "a", "arguments": "{'x': 1}"}]},
            "a tool call's argument string is not JSON",
            "Expecting property name enclosed in double quotes at character 2",
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "a", "arguments": "[1]"}]},
            "a tool call whose arguments are not an object",
            "chosen[0]",
        ),
        (
            {"from": "function_call", "value": "weather()"},
            "a function_call is not JSON",
            "Expecting value at character 1",
        ),
        ({"from": "function_call", "value": "[]"}, "the answer is empty", "chosen[0]"),
        ({"role": "tool", "content": None}, "a turn whose content is not text", "chosen[0] has NoneType"),
        ({"role": "user", "content": ["a"]}, "a turn with a part that is not text", "chosen[0] has str"),
    ],
)
def test_a_turn_that_cannot_be_used_says_why(turn: dict[str, Any], reason: str, detail: str) -> None:
    with pytest.raises(UnusableError) as caught:
        read_turns([turn], "chosen")
    assert (caught.value.reason, caught.value.detail) == (reason, detail)


def test_endless_nesting_inside_a_string_is_not_json() -> None:
    with pytest.raises(UnusableError, match="a function_call is not JSON"):
        read_turns([{"from": "function_call", "value": "[" * 100_000}], "chosen")


def test_a_turn_becomes_the_smallest_dict_that_templates_take() -> None:
    assert ASKED.as_chat() == {"role": "user", "content": "Rain tomorrow?"}
    assert TURNS[2].as_chat() == {"role": "tool", "content": '{"rain": 0.2}', "name": "weather"}
    assert TURNS[1].as_chat() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": CALL.arguments}}],
    }


_CALLS = st.builds(ToolCall, st.text(min_size=1), st.dictionaries(st.text(), st.integers() | st.text(), max_size=2))
_MESSAGES = st.builds(
    Message,
    st.sampled_from(["user", "assistant", "tool"]),
    st.text(),
    st.lists(_CALLS, max_size=2).map(tuple),
    st.text(),
)


@given(_MESSAGES)
def test_a_turn_comes_back_from_its_dict(message: Message) -> None:
    assert message_from(json.loads(json.dumps(message.as_chat()))) == message
