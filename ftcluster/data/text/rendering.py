"""What a chat template gets of a conversation, and what it makes of that: one text.

What users typed never becomes a control token: such strings are replaced by characters that occur nowhere else while
the template renders. Tools go to the template in the form it wants; one that knows none gets them as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from jinja2 import TemplateError

from ftcluster.data.rows.example import Message
from ftcluster.data.text.chat_template import Chat, ChatTemplate, HasTemplate
from ftcluster.data.text.tools import (
    PROBE,
    PROBE_TOOLS,
    Tools,
    as_chats,
    as_text,
    shows_probe,
    strings,
    uses_tools,
    with_strings,
)

_PRIVATE_USE = range(0xF0000, 0x10FFFE)  # Unicode planes 15 and 16, which no text of meaning uses
_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class UnusableError(Exception):
    """The template cannot render this conversation so that its answers can be found: why, and perhaps what would do."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Talk:
    """A conversation as its template gets it; ``typed`` is what the hidden characters in it stand for."""

    chats: Sequence[Chat]
    tools: Sequence[Chat] | None = None
    typed: Mapping[str, str] | None = None

    @property
    def answers(self) -> list[int]:
        """Which turns are the assistant's."""
        return [index for index, chat in enumerate(self.chats) if chat["role"] == "assistant"]


class Rendering:
    """One tokenizer's chat template; ``control`` finds its control tokens."""

    def __init__(self, tokenizer: HasTemplate, control: re.Pattern[str]) -> None:
        self._tokenizer = tokenizer
        self._control = control

    def talk(self, messages: Sequence[Message], tools: Tools) -> Talk:
        """What the template gets."""
        form: Mapping[str, bool] = {}
        if called := uses_tools(messages, tools):
            if self.form_of_calls is None:
                messages, tools = as_text(messages, tools, system=self._takes_system), ()
            else:
                form = self.form_of_calls
        chats, offered = as_chats(messages, **form), list(tools) or None
        said = list(strings([chats, offered])) if called else [message.content for message in messages]
        found = {name for text in said for name in self._control.findall(text)}
        if not found:
            return Talk(chats, offered)
        used = {character for text in said for character in text}
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        hidden = dict(zip(sorted(found), free, strict=False))
        chats, offered = with_strings(
            [chats, offered], lambda text: self._control.sub(lambda match: hidden[match[0]], text)
        )
        return Talk(chats, offered, {character: name for name, character in hidden.items()})

    def render(self, talk: Talk, upto: int | None = None, *, prompt: bool = False) -> str:
        """The text of the turns before ``upto``, with the opening of an answer behind it when ``prompt``.

        Raises:
            UnusableError: the template refuses the conversation.
        """
        try:
            return self._template(talk.chats[:upto], talk.tools, prompt=prompt)
        except _REFUSALS as error:
            raise UnusableError(f"the chat template refuses the conversation: {error}") from error

    @cached_property
    def form_of_calls(self) -> Mapping[str, bool] | None:
        """How the template wants calls (options of ``as_chats``), found out by trying; None: it does not write them."""
        for arguments_as_text in (False, True):
            talk = Talk(as_chats(PROBE, arguments_as_text=arguments_as_text), list(PROBE_TOOLS))
            try:
                text, opening, call = self.render(talk), self.render(talk, 1, prompt=True), self.render(talk, 2)
            except UnusableError:
                continue
            if shows_probe(text) and call.startswith(opening) and text.startswith(call):
                return {"arguments_as_text": arguments_as_text}
        return None

    @cached_property
    def _takes_system(self) -> bool:
        try:
            return "probe" in self.render(Talk(as_chats([Message("system", "probe"), Message("user", "a")])))
        except UnusableError:
            return False

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self._tokenizer)
