"""Tool calls: as a chat template takes them, and as plain text for templates that know of no tools.

The text form is Hermes', which most open models were taught:

    system      ... # Tools ... <tools>{"type": "function", ...}</tools>
    assistant   <tool_call>{"name": ..., "arguments": {...}}</tool_call>
    user        <tool_response>...</tool_response>

Whether a template knows tools is for ``spans`` to find out, with the conversation that ``probe`` is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ftcluster.data.rows.example import Message, ToolCall

Tools = Sequence[Mapping[str, Any]]
_CALLED, _ARGUMENT, _RESULT = "probe_tool", "probe_argument", "probe result"
PROBE_TOOLS: Tools = (
    {
        "type": "function",
        "function": {
            "name": _CALLED,
            "description": "A tool.",
            "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "A value."}}},
        },
    },
)
PROBE = (
    Message("user", "a"),
    Message("assistant", "", (ToolCall(_CALLED, {"x": _ARGUMENT}),)),
    Message("tool", _RESULT, name=_CALLED),
    Message("assistant", "b"),
)

_INTRODUCTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def shows_probe(text: str) -> bool:
    """Whether a rendering of the probe has its tool, its call with the arguments as JSON, and its result."""
    whole = text.count(_CALLED) >= 2 and _ARGUMENT in text and _RESULT in text
    return whole and f'{_ARGUMENT}\\"' not in text  # JSON inside a JSON string


def as_chats(messages: Sequence[Message], *, arguments_as_text: bool = False) -> list[dict[str, Any]]:
    """The turns as a chat template takes them; calls get ids, which some templates insist on."""
    chats = [message.as_chat() for message in messages]
    calls = results = 0
    for chat in chats:
        if "tool_calls" in chat:
            results = calls
        for call in chat.get("tool_calls", ()):
            call["id"], calls = _id(calls), calls + 1
            if arguments_as_text:
                call["function"]["arguments"] = _json(call["function"]["arguments"])
        if chat["role"] == "tool":
            chat["tool_call_id"], results = _id(results), results + 1
    return chats


def _id(number: int) -> str:
    return f"call{number:05}"  # nine letters and digits, as Mistral's templates demand


def uses_tools(messages: Sequence[Message], tools: Tools) -> bool:
    """Whether a conversation is more than text."""
    return bool(tools) or any(message.tool_calls or message.role == "tool" for message in messages)


def as_text(messages: Sequence[Message], tools: Tools, *, system: bool = True) -> list[Message]:
    """The conversation in system, user and assistant turns of text alone.

    Without ``system`` turns, the tools are introduced at the beginning of the first turn.
    """
    turns = list(_turns(messages))
    if not tools:
        return turns
    introduction = _INTRODUCTION.format(tools="\n".join(map(_json, tools)))
    first = turns[0] if turns else Message("system", "")
    if first.role == "system":
        said = f"{first.content}\n\n{introduction}" if first.content.strip() else introduction
        return [Message("system", said), *turns[1:]]
    if not system and first.role == "user":
        return [Message("user", f"{introduction}\n\n{first.content}"), *turns[1:]]
    return [Message("system", introduction), *turns]


def answer_text(message: Message) -> str:
    """An answer with its calls as text."""
    calls = [
        f"<tool_call>\n{_json({'name': call.name, 'arguments': call.arguments})}\n</tool_call>"
        for call in message.tool_calls
    ]
    return "\n".join([message.content, *calls] if message.content.strip() or not calls else calls)


def _turns(messages: Sequence[Message]) -> Iterator[Message]:
    for role, group in groupby(messages, key=lambda message: message.role):
        if role == "tool":
            yield Message("user", "\n".join(f"<tool_response>\n{m.content}\n</tool_response>" for m in group))
        else:
            yield from (Message(role, answer_text(message)) for message in group)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def with_strings(value: Any, change: Callable[[str], str]) -> Any:
    """The JSON value with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): with_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_strings(item, change) for item in value]
    return value
