"""What is wrong with a text is found, and what is right with it is left alone."""

from __future__ import annotations

import pytest
from audit_samples import pair

from ftcluster.data.audit.texts import MARKERS, problems, said, says_nothing
from ftcluster.data.rows.example import Example, Message, ToolCall

CLEAN = [
    "Natalia sold 48/2 = 24 clips in May.",
    "Ça va très bien, señor Müller; über 100 €, n’est-ce pas? “Oui” — bien sûr…",
    "请帮我订一张去上海的票，谢谢。",
    "Где находится библиотека? Καλημέρα κόσμε. مرحبا بالعالم",
    "def f(x):\n\treturn x[0] < 1 and x[1] > 2  # ### done\r\n",
    "The user said: Human beings are [INSTANTLY] curious 😀.",
]


def _names(question: str, answer: str = "Yes, it is.", control: tuple[str, ...] = ()) -> list[str]:
    return [name for name, _ in problems(pair(question, answer), control)]


@pytest.mark.parametrize("text", CLEAN)
def test_ordinary_text_of_many_languages_has_no_finding(text: str) -> None:
    assert _names(text, text) == []


@pytest.mark.parametrize(
    ("text", "name", "shows"),
    [
        ("Itâ€™s late", "encoding", "â€™"),
        ("un cafÃ© crÃ¨me", "encoding", "Ã©"),
        ("God\ufffds window", "lost_characters", "God\ufffds"),
        ("ring \x07 the bell", "control_characters", "U+0007"),
        ("colour \x1b[31m", "control_characters", "U+001B"),
        ("I am {{name}}, made by {{ author }}", "placeholders", "{{name}}"),
    ],
)
def test_damage_is_found_and_shown(text: str, name: str, shows: str) -> None:
    found = dict(problems(pair("What?", text)))
    assert list(found) == [name]
    assert shows in found[name]


@pytest.mark.parametrize("marker", MARKERS)
def test_every_marker_of_a_chat_template_is_found_in_a_question_and_in_an_answer(marker: str) -> None:
    assert "markers" in _names(f"Hello {marker} there")
    assert "markers" in _names("Hello", f"Hi {marker} there")


def test_a_marker_that_is_a_control_token_of_the_model_is_reported_as_that() -> None:
    text = "<|im_start|>user"
    assert _names(text) == ["markers"]
    assert _names(text, control=("<|im_start|>", "<|im_end|>")) == ["control_tokens"]
    assert _names("[INST] <|im_end|>", control=("<|im_end|>",)) == ["control_tokens", "markers"]


@pytest.mark.parametrize("answer", ["N/A", "nan", "[deleted]", "...", "-", "?!"])
def test_an_answer_that_says_nothing_is_empty(answer: str) -> None:
    assert _names("What?", f" {answer}\n") == ["empty_answers"]


@pytest.mark.parametrize("answer", ["7", "B", "是", "😀", "+"])
def test_a_short_answer_is_not_an_empty_one(answer: str) -> None:
    assert _names("What?", answer) == ["short_answers"]


def test_an_answer_that_only_calls_a_tool_is_not_empty() -> None:
    call = Message("assistant", "", (ToolCall("weather", {"city": "Paris"}),))
    example = Example("rows.jsonl", 1, (Message("user", "Weather?"), call))
    assert not says_nothing(example)
    assert list(problems(example)) == []


def test_plain_text_and_rejected_answers_are_looked_at_too() -> None:
    assert [name for name, _ in problems(Example("rows.jsonl", 1, text="see </s>"))] == ["markers"]
    chosen = pair("What?", "Good.")
    rejected = Example(chosen.file, 1, chosen.messages, rejected=(Message("assistant", "cafÃ© crÃ¨me"),))
    assert [name for name, _ in problems(rejected)] == ["encoding"]
    assert "cafÃ©" in said(rejected)
