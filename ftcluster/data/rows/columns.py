"""How the columns of each format become an ``Example``: one reader per format, and why a row is unusable.

Owns what the columns mean. Which format a file has is ``formats``' business, what a turn looks like is ``turns``'.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from ftcluster.data.files.source import Row
from ftcluster.data.rows.example import Example, Message
from ftcluster.data.rows.turns import UnusableError, read_tools, read_turns

Values = Mapping[str, Any]  # our field -> value; a column the row lacks is absent


def _filled(values: Values, name: str) -> str:
    text = _string(values[name], name)
    if not text.strip():
        raise UnusableError(f"{name} is empty")
    return text


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise UnusableError(f"{name} is not text", f"it is {type(value).__name__}")
    return value


def read_text(row: Row, values: Values) -> Example:
    """Plain text."""
    return Example(row.file, row.line, text=_filled(values, "text"))


def read_alpaca(row: Row, values: Values) -> Example:
    """instruction, input and output, behind earlier turns."""
    history = _history(values.get("history", []))
    answer = Message("assistant", _filled(values, "output"))
    return _example(row, values, (*history, Message("user", _instruction(values)), answer))


def _instruction(values: Values) -> str:
    instruction, extra = _filled(values, "instruction"), _string(values.get("input", ""), "input")
    return f"{instruction}\n\n{extra}" if extra.strip() else instruction


def _history(pairs: Any) -> tuple[Message, ...]:
    """Earlier turns as a list of [instruction, answer]."""
    pairs = [] if isinstance(pairs, str) and not pairs.strip() else pairs
    if not isinstance(pairs, list):
        raise UnusableError("history is not a list of pairs")
    turns: list[Message] = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise UnusableError("history is not a list of pairs", f"history[{index}]")
        turns += (Message("user", pair[0]), Message("assistant", pair[1]))
    return tuple(turns)


def read_question_answer(row: Row, values: Values) -> Example:
    """One question, one answer."""
    question, answer = _filled(values, "question"), _filled(values, "answer")
    return _example(row, values, (Message("user", question), Message("assistant", answer)))


def read_prompt_completion(row: Row, values: Values) -> Example:
    """Prompt and completion, as texts or as turns."""
    return _example(row, values, _prompted(values))


def _prompted(values: Values) -> tuple[Message, ...]:
    return (*_said(values, "prompt", "user"), *_said(values, "completion", "assistant"))


def _said(values: Values, name: str, role: str) -> tuple[Message, ...]:
    """A turn given as its text alone, or turns as they are."""
    if isinstance(values[name], dict | list):
        return read_turns(values[name], name)
    return (Message(role, _filled(values, name)),)


def read_messages(row: Row, values: Values) -> Example:
    """Turns in the column messages."""
    return _example(row, values, read_turns(values["messages"], "messages"))


def read_sharegpt(row: Row, values: Values) -> Example:
    """Turns in the column conversations."""
    return _example(row, values, read_turns(values["conversations"], "conversations"))


def read_preference(row: Row, values: Values) -> Example:
    """A chosen and a rejected answer to one prompt: texts, turns, or two whole conversations."""
    chosen, rejected = _said(values, "chosen", "assistant"), _said(values, "rejected", "assistant")
    if chosen == rejected:
        raise UnusableError("chosen and rejected are the same")
    if chosen[0].role == "assistant":
        prompt = _prompt(values)
    else:  # both are whole conversations: the prompt is what they share
        prompt = tuple(
            one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
        )
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if any(not answer or answer[0].role != "assistant" for answer in (chosen, rejected)):
        raise UnusableError("chosen and rejected differ before the answer")
    return _example(row, values, prompt + chosen, rejected=rejected)


def _prompt(values: Values) -> tuple[Message, ...]:
    given = [name for name in ("prompt", "instruction", "messages", "conversations") if name in values]
    if len(given) != 1:
        raise UnusableError(f"several prompts: {', '.join(given)}" if given else "no prompt beside chosen and rejected")
    if given == ["prompt"]:
        return _said(values, "prompt", "user")
    if given == ["instruction"]:
        return (Message("user", _instruction(values)),)
    return read_turns(values[given[0]], given[0])


_LABELS: Mapping[Any, bool] = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}


def read_labels(row: Row, values: Values) -> Example:
    """A conversation with a thumb up or down."""
    said = values["label"]
    label = _LABELS.get(said.strip().lower() if isinstance(said, str) else said) if _plain(said) else None
    if label is None:
        raise UnusableError("label is neither true nor false", f"it is {str(said)[:40]}")
    given = [name for name in ("messages", "conversations", "completion") if name in values]
    if len(given) != 1:
        raise UnusableError(f"several answers: {', '.join(given)}")
    if given == ["completion"]:
        if "prompt" not in values:
            raise UnusableError("no prompt beside the completion")
        return _example(row, values, _prompted(values), label=label)
    return _example(row, values, read_turns(values[given[0]], given[0]), label=label)


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _example(
    row: Row,
    values: Values,
    messages: tuple[Message, ...],
    rejected: tuple[Message, ...] = (),
    label: bool | None = None,
) -> Example:
    """The example, once it is sure that it has a question with an answer."""
    system = _string(values.get("system", ""), "system")
    if system.strip():
        if messages[0].role == "system":
            raise UnusableError("has a system turn and a system column")
        messages = (Message("system", system), *messages)
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        raise UnusableError("no assistant turn")
    if not any(message.role == "user" for message in messages[: answers[-1]]):
        raise UnusableError("no user turn before the answer")
    tools = read_tools(values["tools"]) if values.get("tools") else ()
    return Example(row.file, row.line, messages, tools=tools, rejected=rejected, label=label)
