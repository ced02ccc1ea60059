"""What every format becomes: turns of a conversation, or a plain text, with the place it came from.

Owns these values and the dict that Hugging Face chat templates take. How rows become them is ``formats``' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool; ``arguments`` is a JSON object."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn; ``role`` is system, user, assistant or tool, ``name`` the tool whose result a tool turn is."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""

    def as_chat(self) -> dict[str, Any]:
        """The smallest dict that a Hugging Face chat template takes for this turn."""
        chat: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            chat["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in self.tool_calls
            ]
        if self.name:
            chat["name"] = self.name
        return chat


def message_from(chat: Mapping[str, Any]) -> Message:
    """The inverse of ``Message.as_chat``."""
    calls = (call["function"] for call in chat.get("tool_calls", ()))
    return Message(
        chat["role"],
        chat["content"],
        tuple(ToolCall(call["name"], call["arguments"]) for call in calls),
        chat.get("name", ""),
    )


@dataclass(frozen=True)
class Example:
    """A conversation or a plain text (then ``messages`` is empty), and where it came from.

    ``tools`` are in the form {"type": "function", "function": {"name", "description", "parameters"}}.
    Of a preference pair, ``messages`` is the prompt and the chosen answer, ``rejected`` the turns of the other answer
    alone. ``label`` is a thumb up or down. ``source`` is the name of a data set that is mixed with others.
    """

    file: str
    line: int
    messages: tuple[Message, ...] = ()
    text: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    source: str = ""
