"""Reads turns of a conversation as files have them: OpenAI's {role, content} and ShareGPT's {from, value}.

Owns the names of roles, tool calls and tool results, and why a turn cannot be used. Which columns hold turns is
``formats``' business. A turn may carry text alone: images, weights and reasoning are refused rather than lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ftcluster.data.rows.example import Message, ToolCall

ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_REASONING = ("reasoning_content", "reasoning", "thinking")


class UnusableError(Exception):
    """The row's values cannot be used: a reason many rows may share, and where in this row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def read_turns(value: Any, name: str) -> tuple[Message, ...]:
    """The turns of a list, one turn alone, or either as a JSON string (a table has no lists). ``name``: the column."""
    if isinstance(value, str):
        value = from_json(value, name)
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list) or not turns:
        raise UnusableError(f"{name} is not a list of turns", "it is empty" if turns == [] else "")
    messages: list[Message] = []
    called: dict[str, str] = {}  # id of a call -> tool
    for index, turn in enumerate(turns):
        place = name if isinstance(value, dict) else f"{name}[{index}]"
        before = messages[-1].tool_calls if messages else ()
        messages.append(_message(turn, place, called, before))
    return tuple(messages)


def read_tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Descriptions of tools from a list or its JSON string, each in the form {"type": "function", "function": ...}."""
    if isinstance(value, str):
        value = from_json(value, "tools") if value.strip() else []
    if not isinstance(value, list):
        raise UnusableError("tools is not a list", f"it is {type(value).__name__}")
    tools = []
    for index, tool in enumerate(value):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise UnusableError("a tool without a name", f"tools[{index}]")
        tools.append({"type": "function", "function": function})
    return tuple(tools)


def from_json(text: str, name: str) -> Any:
    """The value of a JSON string inside a row."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        detail = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise UnusableError(f"{name} is not JSON", detail) from error


def _message(turn: Any, place: str, called: dict[str, str], before: Sequence[ToolCall]) -> Message:
    said = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
    if not isinstance(said, str):
        raise UnusableError('a turn without "role" or "from"', place)
    if said not in ROLES:
        raise UnusableError(f"an unknown role; known: {', '.join(ROLES)}", f'{place} has "{said[:40]}"')
    _refuse_unsupported(turn, place)
    if said == "function_call":
        return Message("assistant", "", _sharegpt_calls(turn, place))
    role = ROLES[said]
    calls = _openai_calls(turn, place, called) if role == "assistant" else ()
    content = _content(turn, place, may_lack=bool(calls))
    if role == "assistant" and not calls and not content.strip():
        raise UnusableError("the answer is empty", place)
    return Message(role, content, calls, _tool_of(turn, called, before) if role == "tool" else "")


def _refuse_unsupported(turn: Mapping[str, Any], place: str) -> None:
    if turn.get("weight") not in (None, 1):
        raise UnusableError("a turn with a weight, which is not supported", place)
    for key in _REASONING:
        if turn.get(key):
            raise UnusableError(f"a turn with {key}, which is not supported", place)


def _content(turn: Mapping[str, Any], place: str, *, may_lack: bool) -> str:
    key = "content" if "content" in turn else "value"
    content = turn.get(key)
    if content is None and may_lack:
        return ""
    if isinstance(content, list):
        return "".join(_part(part, place) for part in content)
    if not isinstance(content, str):
        raise UnusableError(f"a turn whose {key} is not text", f"{place} has {type(content).__name__}")
    return content


def _part(part: Any, place: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        kind = str(part.get("type"))[:40] if isinstance(part, dict) else type(part).__name__
        raise UnusableError("a turn with a part that is not text", f"{place} has {kind}")
    return str(part["text"])


def _openai_calls(turn: Mapping[str, Any], place: str, called: dict[str, str]) -> tuple[ToolCall, ...]:
    found = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if not isinstance(found, list):
        raise UnusableError("tool_calls is not a list", place)
    calls = tuple(_call(call, place) for call in found)
    called.update({call["id"]: known.name for call, known in zip(found, calls, strict=True) if call.get("id")})
    return calls


def _sharegpt_calls(turn: Mapping[str, Any], place: str) -> tuple[ToolCall, ...]:
    value = turn.get("value", turn.get("content"))
    if isinstance(value, str):
        value = from_json(value, "a function_call")
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise UnusableError("the answer is empty", place)
    return tuple(_call(call, place) for call in calls)


def _call(value: Any, place: str) -> ToolCall:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UnusableError("a tool call without a name", place)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = from_json(arguments, "a tool call's argument string")
    if not isinstance(arguments, dict):
        raise UnusableError("a tool call whose arguments are not an object", place)
    return ToolCall(function["name"], arguments)


def _tool_of(turn: Mapping[str, Any], called: Mapping[str, str], before: Sequence[ToolCall]) -> str:
    """Whose result a tool turn is, where the row says so or only one call was made; else empty."""
    name = turn.get("name") or called.get(str(turn.get("tool_call_id")))
    if isinstance(name, str):
        return name
    return before[0].name if len(before) == 1 else ""
