"""Each format turns its columns into turns; rows without a usable answer are named with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcluster.data.files.blocks import read_rows
from ftcluster.data.files.source import BadRow, Row
from ftcluster.data.rows.example import Example, Message
from ftcluster.data.rows.formats import FORMATS, detect, to_example
from ftcluster.errors import DataError


def _row(**values: Any) -> Row:
    return Row(values, "rows.jsonl", 3)


def _turns(row: Row, format: str, **columns: str) -> list[tuple[str, str]]:
    example = to_example(row, format, columns)
    assert isinstance(example, Example), example
    assert (example.file, example.line) == ("rows.jsonl", 3)
    return [(message.role, message.content) for message in example.messages]


def _reason(row: Row, format: str) -> str:
    bad = to_example(row, format, {})
    assert isinstance(bad, BadRow), bad
    return str(bad).removeprefix("rows.jsonl:3: ")


USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
ROWS = {
    "messages": _row(messages=[USER, ANSWER]),
    "sharegpt": _row(conversations=[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]),
    "alpaca": _row(instruction="Hi", input="", output="Hello!"),
    "prompt_completion": _row(prompt="Hi", completion="Hello!"),
    "question_answer": _row(question="Hi", answer="Hello!"),
    "preference": _row(prompt="Hi", chosen="Hello!", rejected="Bye"),
    "labels": _row(messages=[USER, ANSWER], label=True),
}


@pytest.mark.parametrize("format", ROWS)
def test_every_conversation_format_gives_the_same_turns(format: str) -> None:
    assert _turns(ROWS[format], format) == [("user", "Hi"), ("assistant", "Hello!")]


@pytest.mark.parametrize("format", ROWS)
def test_every_format_is_detected_by_its_columns(format: str) -> None:
    assert detect([ROWS[format]] * 3) == format


def test_every_format_of_the_table_is_tested_here() -> None:
    assert set(FORMATS) == {*ROWS, "text"}


def test_plain_text_has_no_turns() -> None:
    assert to_example(_row(text="once"), "text", {}) == Example("rows.jsonl", 3, text="once")
    assert detect([_row(text="once")]) == "text"


def test_alpaca_puts_the_input_below_the_instruction_and_the_system_text_first() -> None:
    row = _row(instruction="Translate", input="你好", output="Hello", system="Be brief")
    assert _turns(row, "alpaca") == [
        ("system", "Be brief"),
        ("user", "Translate\n\n你好"),
        ("assistant", "Hello"),
    ]
    assert _turns(_row(instruction="Hi", output="Hello!"), "alpaca") == [("user", "Hi"), ("assistant", "Hello!")]
    assert _turns(_row(instruction="Hi", input=None, output="Hello!"), "alpaca")[0] == ("user", "Hi")


def test_sharegpt_takes_its_system_text_from_a_turn_or_a_column() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    inside = _row(conversations=[{"from": "system", "value": "s"}, *turns])
    beside = _row(conversations=turns, system="s", tools="")
    assert _turns(inside, "sharegpt") == _turns(beside, "sharegpt")
    assert _turns(inside, "sharegpt")[0] == ("system", "s")


def test_the_newer_name_of_the_system_role_is_known() -> None:
    assert _turns(_row(messages=[{"role": "developer", "content": "s"}, USER, ANSWER]), "messages")[0] == (
        "system",
        "s",
    )


def test_columns_of_other_names_are_mapped() -> None:
    row = _row(problem="Hi", solution="Hello!", source="x")
    columns = {"question": "problem", "answer": "solution"}
    assert detect([row], columns) == "question_answer"
    assert _turns(row, "question_answer", **columns) == [("user", "Hi"), ("assistant", "Hello!")]


def test_alpaca_history_is_earlier_turns() -> None:
    row = _row(instruction="c", output="d", history=[["a", "b"]], system="s")
    assert [text for _, text in _turns(row, "alpaca")] == ["s", "a", "b", "c", "d"]
    assert _turns(_row(instruction="c", output="d", history=""), "alpaca") == [("user", "c"), ("assistant", "d")]


def test_prompt_and_completion_may_be_turns() -> None:
    row = _row(prompt=[{"role": "system", "content": "s"}, USER], completion=ANSWER)
    assert _turns(row, "prompt_completion") == [("system", "s"), ("user", "Hi"), ("assistant", "Hello!")]


BAD, TOOL = {"role": "assistant", "content": "Bye"}, {"name": "clock", "description": "Tells the time."}


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "Bye"},
        {"prompt": [USER], "chosen": ANSWER, "rejected": [BAD]},
        {"instruction": "Hi", "input": "", "chosen": "Hello!", "rejected": "Bye"},
        {"messages": [USER], "chosen": ANSWER, "rejected": BAD},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello!"},
            "rejected": BAD,
        },
        {"chosen": [USER, ANSWER], "rejected": [USER, BAD]},
        {"prompt": "Hi", "messages": [USER, ANSWER], "chosen": [USER, ANSWER], "rejected": [USER, BAD]},
    ],
)
def test_preference_pairs_have_the_chosen_answer_behind_the_prompt_and_the_rejected_one_alone(
    values: dict[str, Any],
) -> None:
    row = _row(**values)
    assert detect([row]) == "preference"
    example = to_example(row, "preference", {})
    assert isinstance(example, Example), example
    assert example.messages == (Message("user", "Hi"), Message("assistant", "Hello!"))
    assert example.rejected == (Message("assistant", "Bye"),)
    assert example.label is None


@pytest.mark.parametrize(
    ("said", "label"), [(True, True), (False, False), ("TRUE", True), (" false ", False), (1, True), ("0", False)]
)
@pytest.mark.parametrize(
    "values",
    [
        {"messages": [USER, ANSWER]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
        {"prompt": "Hi", "completion": "Hello!"},
    ],
)
def test_labels_are_thumbs_up_or_down_of_a_conversation(values: dict[str, Any], said: object, label: bool) -> None:
    row = _row(**values, label=said)
    assert detect([row]) == "labels"
    example = to_example(row, "labels", {})
    assert isinstance(example, Example), example
    assert example.messages == (Message("user", "Hi"), Message("assistant", "Hello!"))
    assert example.label is label


def test_tools_are_a_list_or_its_json_string_and_have_one_form() -> None:
    wrapped = {"type": "function", "function": TOOL}
    for tools in ([TOOL], [wrapped], json.dumps([TOOL])):
        example = to_example(_row(messages=[USER, ANSWER], tools=tools), "messages", {})
        assert isinstance(example, Example)
        assert example.tools == (wrapped,)
    for none in ("", " ", "[]", [], None):
        example = to_example(_row(messages=[USER, ANSWER], tools=none), "messages", {})
        assert isinstance(example, Example)
        assert example.tools == ()


def test_turns_in_a_table_are_a_json_string() -> None:
    assert _turns(_row(messages=json.dumps([USER, ANSWER])), "messages") == [("user", "Hi"), ("assistant", "Hello!")]


@pytest.mark.parametrize(
    ("format", "values", "reason"),
    [
        ("alpaca", {"instruction": "x", "output": "  \n"}, "output is empty"),
        ("alpaca", {"instruction": "", "output": "x"}, "instruction is empty"),
        ("alpaca", {"instruction": "x", "input": 3, "output": "x"}, "input is not text (it is int)"),
        ("alpaca", {"instruction": "x", "output": "y", "history": "a"}, "history is not a list of pairs"),
        ("alpaca", {"instruction": "x", "output": "y", "history": [["a"]]}, "list of pairs (history[0])"),
        ("prompt_completion", {"prompt": "x", "completion": 7}, "completion is not text (it is int)"),
        ("prompt_completion", {"prompt": "x", "completion": ["y"]}, 'a turn without "role" or "from" (completion[0])'),
        ("prompt_completion", {"prompt": "x", "completion": None}, 'no "completion" (it has completion, prompt)'),
        ("question_answer", {"question": "x"}, 'no "answer" (it has question)'),
        ("text", {}, 'no "text" (it has (none))'),
        ("text", {"text": "\n"}, "text is empty"),
        ("messages", {"messages": []}, "messages is not a list of turns (it is empty)"),
        ("messages", {"messages": 3}, "messages is not a list of turns"),
        ("messages", {"messages": "Hi"}, "messages is not JSON (Expecting value at character 1)"),
        ("messages", {"messages": [USER]}, "no assistant turn"),
        ("messages", {"messages": [ANSWER, USER]}, "no user turn before the answer"),
        ("messages", {"messages": [USER, ANSWER], "tools": [{}]}, "a tool without a name (tools[0])"),
        ("messages", {"messages": [USER, ANSWER], "tools": {"a": 1}}, "tools is not a list (it is dict)"),
        ("messages", {"messages": [USER, ANSWER], "tools": "clock"}, "tools is not JSON"),
        ("messages", {"messages": [USER, "Hello!"]}, 'a turn without "role" or "from" (messages[1])'),
        ("messages", {"messages": [USER, ANSWER | {"weight": 0}]}, "a turn with a weight, which is not supported"),
        (
            "messages",
            {"messages": [USER, ANSWER | {"reasoning_content": "hm"}]},
            "a turn with reasoning_content, which is not supported (messages[1])",
        ),
        ("messages", {"messages": [USER, {"role": "assistant", "content": " "}]}, "the answer is empty (messages[1])"),
        (
            "messages",
            {"messages": [USER, {"role": "assistant", "content": None}]},
            "a turn whose content is not text (messages[1] has NoneType)",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER]},
            "a turn with a part that is not text (messages[0] has image_url)",
        ),
        (
            "messages",
            {"messages": [{"role": "system", "content": "s"}, USER, ANSWER], "system": "t"},
            "has a system turn and a system column",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "alien", "value": "x"}]},
            "an unknown role; known: system, developer, user, human, assistant, gpt, function_call, tool, function, "
            'observation (conversations[0] has "alien")',
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "x"}], "system": 1},
            "system is not text (it is int)",
        ),
        ("preference", {"chosen": "a", "rejected": "b"}, "no prompt beside chosen and rejected"),
        ("preference", {"prompt": "x", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ("preference", {"prompt": "x", "chosen": "a"}, 'no "rejected" (it has chosen, prompt)'),
        (
            "preference",
            {"prompt": "x", "messages": [USER], "chosen": "a", "rejected": "b"},
            "several prompts: prompt, messages",
        ),
        (
            "preference",
            {"chosen": [USER, ANSWER], "rejected": [BAD]},
            "chosen and rejected differ before the answer",
        ),
        (
            "preference",
            {"chosen": [USER, ANSWER], "rejected": [USER]},
            "chosen and rejected differ before the answer",
        ),
        ("labels", {"messages": [USER, ANSWER], "label": "maths"}, "label is neither true nor false (it is maths)"),
        ("labels", {"messages": [USER, ANSWER], "label": [1]}, "label is neither true nor false (it is [1])"),
        ("labels", {"label": True}, 'no "messages" or "conversations" or "completion" (it has label)'),
        ("labels", {"label": True, "completion": "x"}, "no prompt beside the completion"),
        (
            "labels",
            {"label": True, "prompt": "x", "completion": "y", "messages": [USER, ANSWER]},
            "several answers: messages, completion",
        ),
    ],
)
def test_a_row_that_cannot_be_used_says_why(format: str, values: dict[str, Any], reason: str) -> None:
    assert reason in _reason(_row(**values), format)


def test_rows_of_other_formats_in_a_file_are_named() -> None:
    rows = [ROWS["alpaca"], ROWS["messages"], _row(text="once")]
    assert [isinstance(to_example(row, "alpaca", {}), Example) for row in rows] == [True, False, False]
    assert _reason(rows[1], "alpaca") == 'no "instruction" (it has messages)'


def test_some_rows_without_the_columns_do_not_hide_the_format() -> None:
    assert detect([ROWS["alpaca"], ROWS["alpaca"], _row(other=1)]) == "alpaca"


def test_rows_that_fit_two_formats_are_refused_with_a_way_to_choose() -> None:
    row = _row(prompt="a", completion="b", text="c")
    with pytest.raises(
        DataError, match="several formats fit the columns completion, prompt, text: prompt_completion, text"
    ):
        detect([row])


def test_a_format_that_needs_more_columns_goes_before_one_whose_columns_it_knows() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert detect([_row(conversations=turns, chosen="c", rejected="d")]) == "preference"
    assert detect([_row(prompt="a", completion="b", label=True)]) == "labels"
    assert detect([_row(question="a", answer="b", label=True)]) == "question_answer"
    assert detect([_row(text="a", label=1)]) == "text"
    with pytest.raises(DataError, match=r"several formats fit .*: alpaca, preference"):
        detect([_row(instruction="a", output="b", chosen="c", rejected="d")])


def test_a_table_without_a_header_shows_the_beginnings_of_its_first_row() -> None:
    with pytest.raises(DataError) as caught:
        detect([_row(**{"x" * 1000: "a"}, **{f"column {number:02}": "b" for number in range(30)})])
    assert "column 00, column 01, " in caught.value.message
    assert caught.value.message.endswith("column 19 and 11 more")
    with pytest.raises(DataError, match="columns " + "x" * 40 + "…\n"):
        detect([_row(**{"x" * 1000: "a"})])


def test_rows_that_fit_no_format_list_their_columns_and_all_formats() -> None:
    with pytest.raises(DataError, match=r"rows.jsonl: no known format fits the columns bar, foo") as caught:
        detect([_row(foo=1, bar=2)])
    assert "data.format=" in caught.value.remedy
    assert "data.columns={our_field: column}" in caught.value.remedy
    assert all(name in caught.value.remedy for name in FORMATS)


def test_an_unknown_format_suggests_the_nearest() -> None:
    with pytest.raises(
        DataError, match=r'data.format: unknown data format "alpacca"; did you mean "alpaca"\?'
    ) as caught:
        to_example(_row(), "alpacca", {})
    assert caught.value.remedy.startswith("known formats: auto, messages, ")


def test_a_mapping_of_a_field_that_the_format_does_not_have_lists_its_fields() -> None:
    with pytest.raises(DataError, match='no field "prompt" to map a column to') as caught:
        to_example(ROWS["alpaca"], "alpaca", {"prompt": "instruction"})
    assert caught.value.remedy.startswith("fields: instruction, output, input, system, history;")
    with pytest.raises(DataError, match='no field "promt"'):
        detect([ROWS["prompt_completion"]], {"promt": "prompt"})


PUBLIC = {
    "alpaca_en_demo.json": ("alpaca", 999),
    "c4_demo.jsonl": ("text", 300),
    "dpo_en_demo.json": ("preference", 300),
    "glaive_toolcall_en_demo.json": ("sharegpt", 300),
    "gsm8k_test.jsonl": ("question_answer", 1319),
    "gsm8k_train.jsonl": ("question_answer", 7473),
    "identity.json": ("alpaca", 91),
    "kto_en_demo.json": ("labels", 300),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_files_are_recognised_and_every_row_is_usable(real_data: Path, name: str) -> None:
    rows = [row for row in read_rows(real_data / name) if isinstance(row, Row)]
    format, usable = PUBLIC[name]
    assert detect(rows[:50]) == format
    examples = [to_example(row, format, {}) for row in rows]
    assert [bad for bad in examples if isinstance(bad, BadRow)] == []
    assert len(examples) == usable


def test_every_public_file_is_listed_here(real_data: Path) -> None:
    assert {file.name for file in real_data.glob("*.json*")} == set(PUBLIC)


def test_calls_and_results_of_a_public_file_name_their_tools(real_data: Path) -> None:
    rows = [row for row in read_rows(real_data / "glaive_toolcall_en_demo.json") if isinstance(row, Row)]
    examples = [example for row in rows if isinstance(example := to_example(row, "sharegpt", {}), Example)]
    messages = [message for example in examples for message in example.messages]
    calls = [call for message in messages for call in message.tool_calls]
    results = [message for message in messages if message.role == "tool"]
    assert (len(calls), len(results)) == (211, 211)
    assert [result.name for result in results] == [call.name for call in calls]
    assert all(message.content == "" for message in messages if message.tool_calls)


def test_the_public_thumbs_are_half_up_and_half_down(real_data: Path) -> None:
    rows = [row for row in read_rows(real_data / "kto_en_demo.json") if isinstance(row, Row)]
    examples = [example for row in rows if isinstance(example := to_example(row, "labels", {}), Example)]
    assert [sum(example.label is label for example in examples) for label in (True, False)] == [150, 150]
