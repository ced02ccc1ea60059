"""Renders a conversation with the model's chat template and cuts the text into trained and untrained pieces.

    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n | Hello!<|im_end|> | \\n<|im_start|>user ...
                      untrained                            |     trained      |       untrained

An answer starts where the generation prompt ends and goes on to the end of its end-of-turn token. Text only:
tokens are ``template``'s. What users typed never becomes a control token: such strings are hidden while the
template renders, and put back as pieces of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from jinja2 import TemplateError

from ftcluster.data.formats import Message

_PRIVATE_USE = range(0xF0000, 0x10FFFE)  # Unicode planes 15 and 16, which no text of meaning uses


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    chat_template: Any
    eos_token: Any
    eos_token_id: Any

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...

    def __len__(self) -> int: ...

    def __call__(self, text: list[str], **options: Any) -> Any: ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...


@dataclass(frozen=True)
class Piece:
    """Text to be tokenised on its own; ``control`` says whether control tokens in it are meant as such."""

    text: str
    trained: bool
    control: bool = True


class UnusableError(Exception):
    """The template cannot render this conversation so that its answers can be found; the message says why."""


class Renderer:
    """One tokenizer's chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        names = {str(token) for token in added if token.special} | {str(tokenizer.eos_token)}
        longest_first = sorted(names, key=lambda name: (-len(name), name))
        self._control = re.compile("|".join(re.escape(name) for name in longest_first))

    def answers(self, messages: Sequence[Message]) -> list[Piece]:
        """The conversation up to the end of its last answer, its answers trained.

        Raises:
            UnusableError: the template refuses the conversation, or changes what was said.
        """
        if not (turns := [index for index, message in enumerate(messages) if message.role == "assistant"]):
            raise UnusableError("no assistant turn")
        hidden, typed = self._hide(messages[: turns[-1] + 1])
        text = self._render(hidden)
        spans = self._spans(hidden, text)
        return list(_cut(text[: spans[-1][1]], spans, typed))

    def prompt(self, messages: Sequence[Message]) -> list[Piece]:
        """The conversation and the opening of an answer to it, cut as ``answers`` would cut it."""
        hidden, typed = self._hide(messages)
        text = self._render(hidden, prompt=True)
        return [replace(piece, trained=False) for piece in _cut(text, self._spans(hidden, text), typed)]

    def whole(self, messages: Sequence[Message]) -> list[Piece]:
        """The whole conversation, all of it trained."""
        hidden, typed = self._hide(messages)
        text = self._render(hidden)
        return list(_cut(text, [(0, len(text))], typed))

    def ends_turn(self, text: str) -> bool:
        """Whether the text ends with a control token."""
        return any(match.end() == len(text) for match in self._control.finditer(text))

    def _render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))
        except (TemplateError, TypeError, ValueError) as error:
            raise UnusableError(f"the chat template refuses the conversation: {error}") from error

    def _spans(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Where the answers are in the rendered text, end-of-turn tokens included."""
        turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
        starts = []
        for index in turns:
            opening = self._render(messages[:index], prompt=True)
            if not text.startswith(opening):
                raise UnusableError("the chat template opens an answer in another way than it asks for one")
            starts.append(len(opening))
        limits = [*starts[1:], len(text)][: len(starts)]
        return [
            (start, self._end_of_turn(messages, index, text, start, limit))
            for index, start, limit in zip(turns, starts, limits, strict=True)
        ]

    def _end_of_turn(self, messages: Sequence[Message], index: int, text: str, start: int, limit: int) -> int:
        answer = messages[index].content.strip()
        found = text.find(answer, start, limit)
        if found < 0:
            raise UnusableError("the chat template does not write the answer as it is")
        end = found + len(answer)
        turn = text if index + 1 == len(messages) else self._render(messages[: index + 1])
        unchanged = text.startswith(turn)  # some templates write an answer otherwise once it is not the last
        if unchanged:
            limit = min(limit, len(turn))
        control = self._control.search(text, end, limit)
        if control is None and not unchanged:
            raise UnusableError("the chat template does not mark the end of an answer")
        return control.end() if control else limit

    def _hide(self, messages: Sequence[Message]) -> tuple[list[Message], dict[str, str]]:
        """Messages with typed control tokens replaced by characters that occur nowhere, and what these stand for."""
        found = {name for message in messages for name in self._control.findall(message.content)}
        if not found:
            return list(messages), {}
        used = {character for message in messages for character in message.content}
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        hidden = dict(zip(sorted(found), free, strict=False))
        return [
            replace(message, content=self._control.sub(lambda match: hidden[match[0]], message.content))
            for message in messages
        ], {character: name for name, character in hidden.items()}


def _cut(text: str, spans: Sequence[tuple[int, int]], typed: Mapping[str, str]) -> Iterator[Piece]:
    at = 0
    for start, end in spans:
        yield from _reveal(text[at:start], False, typed)
        yield from _reveal(text[start:end], True, typed)
        at = end
    yield from _reveal(text[at:], False, typed)


def _reveal(text: str, trained: bool, typed: Mapping[str, str]) -> Iterator[Piece]:
    """The text as one piece, or as several where hidden control tokens come back as what was typed."""
    parts = re.split(f"([{''.join(typed)}])", text) if typed else [text]
    for part in parts:
        if part:
            yield Piece(typed.get(part, part), trained, control=part not in typed)
