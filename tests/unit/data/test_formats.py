"""Each format turns its columns into turns; rows without a usable answer are named with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftcluster.data.formats import FORMATS, Example, detect, to_example
from ftcluster.data.reading import read_examples
from ftcluster.data.source import BadRow, Row
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


@pytest.mark.parametrize(
    ("format", "values", "reason"),
    [
        ("alpaca", {"instruction": "x", "output": "  \n"}, "output is empty"),
        ("alpaca", {"instruction": "", "output": "x"}, "instruction is empty"),
        ("alpaca", {"instruction": "x", "input": 3, "output": "x"}, "input is not text (it is int)"),
        ("prompt_completion", {"prompt": "x", "completion": ["y"]}, "completion is not text (it is list)"),
        ("prompt_completion", {"prompt": "x", "completion": None}, 'no "completion" (it has prompt, completion)'),
        ("question_answer", {"question": "x"}, 'no "answer" (it has question)'),
        ("text", {}, 'no "text" (it has no column)'),
        ("text", {"text": "\n"}, "text is empty"),
        ("messages", {"messages": []}, "messages is not a list of turns (it is empty)"),
        ("messages", {"messages": "Hi"}, "messages is not a list of turns"),
        ("messages", {"messages": [USER]}, "no assistant turn"),
        ("messages", {"messages": [ANSWER, USER]}, "no user turn before the answer"),
        ("messages", {"messages": [USER, ANSWER], "tools": [{}]}, "has tools, which are not supported yet"),
        ("messages", {"messages": [USER, "Hello!"]}, 'a turn without "role" (messages[1])'),
        ("messages", {"messages": [USER, {"role": "tool", "content": ""}]}, "a tool turn, which is not supported yet"),
        ("messages", {"messages": [USER, ANSWER | {"tool_calls": [{}]}]}, "a tool turn, which is not supported yet"),
        ("messages", {"messages": [USER, ANSWER | {"weight": 0}]}, "a turn with a weight, which is not supported yet"),
        ("messages", {"messages": [USER, {"role": "assistant", "content": " "}]}, "the answer is empty (messages[1])"),
        (
            "messages",
            {"messages": [USER, {"role": "assistant", "content": None}]},
            "a turn whose content is not text (messages[1] has NoneType)",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "alien", "value": "x"}]},
            'known: system, developer, user, assistant, human, gpt (conversations[0] has "alien")',
        ),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "x"}]}, "a tool turn"),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "x"}], "system": 1},
            "system is not text (it is int)",
        ),
    ],
)
def test_a_row_that_cannot_be_used_says_why(format: str, values: dict[str, Any], reason: str) -> None:
    assert reason in _reason(_row(**values), format)


def test_some_rows_without_the_columns_do_not_hide_the_format() -> None:
    assert detect([ROWS["alpaca"], ROWS["alpaca"], _row(other=1)]) == "alpaca"


def test_rows_that_fit_two_formats_are_refused_with_a_way_to_choose() -> None:
    row = _row(prompt="a", completion="b", text="c")
    with pytest.raises(
        DataError, match="several formats fit the columns completion, prompt, text: prompt_completion, text"
    ):
        detect([row])


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
    assert caught.value.remedy.startswith("fields: instruction, output, input, system;")
    with pytest.raises(DataError, match='no field "promt"'):
        detect([ROWS["prompt_completion"]], {"promt": "prompt"})


@pytest.mark.parametrize(
    ("name", "format", "usable"),
    [
        ("gsm8k_test.jsonl", "question_answer", 1319),
        ("alpaca_en_demo.json", "alpaca", 999),
        ("identity.json", "alpaca", 91),
        ("c4_demo.jsonl", "text", 300),
    ],
)
def test_the_public_files_are_recognised_and_every_row_is_usable(
    real_data: Path, name: str, format: str, usable: int
) -> None:
    reading = read_examples([str(real_data / name)], "auto", {})
    assert list(reading.formats.values()) == [format]
    assert (len(reading.examples), reading.bad) == (usable, ())


def test_tool_calls_in_a_public_file_are_refused_row_by_row_with_a_reason(real_data: Path) -> None:
    reading = read_examples([str(real_data / "glaive_toolcall_en_demo.json")], "auto", {})
    assert {bad.reason for bad in reading.bad} <= {
        "has tools, which are not supported yet",
        "a tool turn, which is not supported yet",
    }
    assert len(reading.bad) + len(reading.examples) == 300
