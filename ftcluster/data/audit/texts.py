"""What is wrong with one text: damage, markers of chat templates, control tokens, placeholders, empty answers.

Each check is a substring search or one regular expression, so that all of them together cost a few microseconds a
row. Texts are only looked at; ``repair`` changes them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from ftcluster.data.rows.example import Example

# Strings that chat templates write around turns. Inside a text they show that a rendered prompt was pasted in.
MARKERS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<|channel|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜end▁of▁sentence｜>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "</s>",
    "<bos>",
    "<eos>",
    "### Instruction:",
    "### Response:",
    "### Input:",
    "\n### Human:",
    "\n### Assistant:",
    "\nHuman: ",
    "\nAssistant: ",
    "\nUSER: ",
    "\nASSISTANT: ",
    "Below is an instruction that describes a task",
)
# Most texts have none of the few characters that most markers begin with, and need no further search.
_BEGINNINGS = {
    start: tuple(marker for marker in MARKERS if marker.strip().startswith(start)) for start in ("<", "[", "###")
}
_OTHERS = tuple(marker for marker in MARKERS if not marker.strip().startswith(tuple(_BEGINNINGS)))
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_PLACEHOLDER = re.compile(r"\{\{\s*\w[\w .-]{0,40}\}\}")
_SAYS_NOTHING = frozenset({"n/a", "nan", "null", "undefined", "todo", "tbd", "[deleted]", "[removed]"})
_SHORT = 2  # characters
_LOOKED_AT = 20_000  # characters of a row in which encoding damage is looked for
# Text that was decoded in a wrong way has letters of these ranges next to each other; most languages do not.
_SUSPICIOUS = re.compile("[\x80-\u024f\u0370-\u04ff\u2013-\u2122][\x80-\u024f\u0370-\u04ff\u2013-\u2122]")


def said(example: Example) -> str:
    """All that is said in an example, a line break before each turn."""
    if not example.messages:
        return "\n" + example.text
    return "\n" + "\n".join(message.content for message in (*example.messages, *example.rejected))


def problems(example: Example, control: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """The name of each finding in an example, and what shows it; ``control`` are the model's control tokens."""
    text = said(example)
    yield from _damage(text)
    if typed := [token for token in control if token in text]:
        yield "control_tokens", typed[0]
    if marker := next((marker for marker in _markers(text) if marker not in control), ""):
        yield "markers", marker.strip()
    if "{{" in text and (found := _PLACEHOLDER.search(text)):
        yield "placeholders", found[0]
    yield from _answers(example)


def _markers(text: str) -> Iterator[str]:
    for start, markers in _BEGINNINGS.items():
        if start in text:
            yield from (marker for marker in markers if marker in text)
    yield from (marker for marker in _OTHERS if marker in text)


def _damage(text: str) -> Iterator[tuple[str, str]]:
    if found := CONTROL_CHARACTERS.search(text):
        yield "control_characters", f"U+{ord(found[0]):04X}"
    if text.isascii():
        return
    if (at := text.find("\ufffd")) >= 0:
        yield "lost_characters", around(text, at)
    if (found := _SUSPICIOUS.search(text, 0, _LOOKED_AT)) and is_damaged(text[:_LOOKED_AT]):
        yield "encoding", around(text, found.start())


def is_damaged(text: str) -> bool:
    """Whether ftfy takes the text for one that was decoded with a wrong encoding."""
    from ftfy.badness import is_bad

    return bool(is_bad(text))


def around(text: str, at: int, width: int = 16) -> str:
    """A few characters of a text on both sides of a place, on one line."""
    return " ".join(text[max(0, at - width) : at + width].split())


def _answers(example: Example) -> Iterator[tuple[str, str]]:
    answer = _last_answer(example)
    if says_nothing(example):
        yield "empty_answers", answer[:20]
    elif answer and len(answer) <= _SHORT:
        yield "short_answers", answer


def says_nothing(example: Example) -> bool:
    """Whether the last answer is a placeholder such as N/A, or nothing but punctuation."""
    answer = _last_answer(example)
    return answer.lower() in _SAYS_NOTHING or (bool(answer) and all(map(_is_punctuation, answer)))


def _is_punctuation(character: str) -> bool:
    return not character.isalnum() and unicodedata.category(character)[0] in "PZC"  # no digit, emoji or sign


def _last_answer(example: Example) -> str:
    """What the last assistant turn says, without spaces around it; empty where it calls tools, or there is none."""
    last = next((turn for turn in reversed(example.messages) if turn.role == "assistant"), None)
    return last.content.strip() if last is not None and not last.tool_calls else ""
