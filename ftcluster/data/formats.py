"""What the columns of a row mean: each known format turns a row into an ``Example``.

Owns the table of formats and why a row has no usable example. Reading files is ``source``, rendering is ``template``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftcluster.data.source import BadRow, Row
from ftcluster.errors import DataError

Values = Mapping[str, Any]  # our field -> value; a column the row lacks is absent


@dataclass(frozen=True)
class Message:
    """One turn; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation or a plain text (then ``messages`` is empty), and where it came from."""

    file: str
    line: int
    messages: tuple[Message, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Format:
    """``required`` and ``optional`` are our names of its fields; ``data.columns`` maps them to other columns."""

    required: tuple[str, ...]
    read: Callable[[Values], tuple[Message, ...] | str]
    optional: tuple[str, ...] = field(default=())

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields, required ones first."""
        return self.required + self.optional


class _UnusableError(Exception):
    """The row's values cannot be used: a reason many rows may share, and where in this row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def detect(rows: Sequence[Row], columns: Mapping[str, str] | None = None) -> str:
    """The format of a file from its first rows: the only one whose required columns most of them have.

    Raises:
        DataError: none fits, or several do.
    """
    mapping = columns or {}
    unknown = sorted(set(mapping) - {name for known in FORMATS.values() for name in known.fields})
    if unknown:
        raise _unknown_field(unknown[0], sorted({name for known in FORMATS.values() for name in known.fields}))

    def fits(known: Format) -> bool:
        having = [all(mapping.get(name, name) in row.values for name in known.required) for row in rows]
        # A mapped field that the format does not have means another format was meant.
        return set(mapping) <= set(known.fields) and sum(having) * 2 > len(rows)

    names = [name for name, known in FORMATS.items() if fits(known)]
    if len(names) == 1:
        return names[0]
    found = sorted({column for row in rows for column in row.values})
    raise DataError(
        f"{'several formats fit' if names else 'no known format fits'} the columns {', '.join(found) or '(none)'}"
        + (f": {', '.join(names)}" if names else ""),
        where=rows[0].file if rows else "",
        remedy="name it with data.format=..., and columns of other names with data.columns={our_field: column}. "
        + "Formats: "
        + "; ".join(f"{name} ({', '.join(known.required)})" for name, known in FORMATS.items()),
    )


def check_format(name: str, columns: Mapping[str, str]) -> Format:
    """The format of that name.

    Raises:
        DataError: no such format, or ``columns`` maps a field it does not have.
    """
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        raise DataError(
            f'unknown data format "{name}"' + (f'; did you mean "{near[0]}"?' if near else ""),
            where="data.format",
            remedy=f"known formats: auto, {', '.join(FORMATS)}",
        )
    known = FORMATS[name]
    unknown = sorted(set(columns) - set(known.fields))
    if unknown:
        raise _unknown_field(unknown[0], known.fields)
    return known


def _unknown_field(name: str, fields: Sequence[str]) -> DataError:
    return DataError(
        f'no field "{name}" to map a column to',
        where="data.columns",
        remedy=f"fields: {', '.join(fields)}; write data.columns={{our_field: column_of_the_file}}",
    )


def to_example(row: Row, format: str, columns: Mapping[str, str]) -> Example | BadRow:
    """The row's conversation or text.

    Raises:
        DataError: as ``check_format``.
    """
    known = check_format(format, columns)
    names = {name: columns.get(name, name) for name in known.fields}
    values = {name: row.values[column] for name, column in names.items() if row.values.get(column) is not None}
    missing = [names[name] for name in known.required if name not in values]
    if missing:
        return BadRow(row.file, row.line, f'no "{missing[0]}"', f"it has {', '.join(row.values) or 'no column'}")
    try:
        content = known.read(values)
    except _UnusableError as problem:
        return BadRow(row.file, row.line, problem.reason, problem.detail)
    if isinstance(content, str):
        return Example(row.file, row.line, text=content)
    return Example(row.file, row.line, messages=content)


def _filled(values: Values, name: str) -> str:
    text = _string(values[name], name)
    if not text.strip():
        raise _UnusableError(f"{name} is empty")
    return text


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _UnusableError(f"{name} is not text", f"it is {type(value).__name__}")
    return value


def _pair(question: str, answer: str, system: str = "") -> tuple[Message, ...]:
    opening = (Message("system", system),) if system.strip() else ()
    return (*opening, Message("user", question), Message("assistant", answer))


def _alpaca(values: Values) -> tuple[Message, ...]:
    instruction, extra = _filled(values, "instruction"), _string(values.get("input", ""), "input")
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    return _pair(question, _filled(values, "output"), _string(values.get("system", ""), "system"))


def _prompt_completion(values: Values) -> tuple[Message, ...]:
    return _pair(_filled(values, "prompt"), _filled(values, "completion"))


def _question_answer(values: Values) -> tuple[Message, ...]:
    return _pair(_filled(values, "question"), _filled(values, "answer"))


def _text(values: Values) -> str:
    return _filled(values, "text")


_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES = _ROLES | {"human": "user", "gpt": "assistant"}
_TOOL_ROLES = {"tool", "function", "function_call", "observation"}


def _messages(values: Values) -> tuple[Message, ...]:
    return _conversation(values, "messages", "role", "content", _ROLES)


def _sharegpt(values: Values) -> tuple[Message, ...]:
    return _conversation(values, "conversations", "from", "value", _SHAREGPT_ROLES)


def _conversation(
    values: Values, name: str, role_key: str, content_key: str, roles: Mapping[str, str]
) -> tuple[Message, ...]:
    if values.get("tools"):
        raise _UnusableError("has tools, which are not supported yet")
    turns = values[name]
    if not isinstance(turns, list) or not turns:
        raise _UnusableError(f"{name} is not a list of turns", "it is empty" if turns == [] else "")
    system = _string(values.get("system", ""), "system")
    opening = (Message("system", system),) if system.strip() else ()
    messages = opening + tuple(
        _message(turn, f"{name}[{index}]", role_key, content_key, roles) for index, turn in enumerate(turns)
    )
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        raise _UnusableError("no assistant turn")
    if not any(message.role == "user" for message in messages[: answers[-1]]):
        raise _UnusableError("no user turn before the answer")
    return messages


def _message(turn: Any, place: str, role_key: str, content_key: str, roles: Mapping[str, str]) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get(role_key), str):
        raise _UnusableError(f'a turn without "{role_key}"', place)
    said = turn[role_key]
    if said in _TOOL_ROLES or turn.get("tool_calls") or turn.get("function_call"):
        raise _UnusableError("a tool turn, which is not supported yet", place)
    if said not in roles:
        raise _UnusableError(f"an unknown {role_key}; known: {', '.join(roles)}", f'{place} has "{said}"')
    if turn.get("weight", 1) != 1:
        raise _UnusableError("a turn with a weight, which is not supported yet", place)
    content = turn.get(content_key)
    if not isinstance(content, str):
        raise _UnusableError(f"a turn whose {content_key} is not text", f"{place} has {type(content).__name__}")
    if roles[said] == "assistant" and not content.strip():
        raise _UnusableError("the answer is empty", place)
    return Message(roles[said], content)


FORMATS: dict[str, Format] = {
    "messages": Format(("messages",), _messages, ("tools",)),
    "sharegpt": Format(("conversations",), _sharegpt, ("system", "tools")),
    "alpaca": Format(("instruction", "output"), _alpaca, ("input", "system")),
    "prompt_completion": Format(("prompt", "completion"), _prompt_completion),
    "question_answer": Format(("question", "answer"), _question_answer),
    "text": Format(("text",), _text),
}
