"""Renders a conversation with the model's chat template and cuts the text into trained and untrained pieces.

    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n | Hello!<|im_end|> | \\n<|im_start|>user ...
                      untrained                            |     trained      |       untrained

An answer starts where the generation prompt ends and goes on to the end of its end-of-turn token. Control tokens that
users typed come back as pieces of their own, to be tokenised as text. A prompt is cut as the conversation it opens, so
that both have the same tokens. Owns no tokens: they are ``template``'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ftcluster.data.rows.example import Message
from ftcluster.data.text.chat_template import HasTemplate
from ftcluster.data.text.rendering import Rendering, Talk, UnusableError
from ftcluster.data.text.tools import Tools

Span = tuple[int, int]


class Tokenizer(HasTemplate, Protocol):
    """What is used of a Hugging Face tokenizer."""

    eos_token: Any
    eos_token_id: Any

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...

    def __len__(self) -> int: ...

    def __call__(self, text: list[str], **options: Any) -> Any: ...

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> Any: ...


@dataclass(frozen=True)
class Piece:
    """Text to be tokenised on its own; ``control`` says whether control tokens in it are meant as such."""

    text: str
    trained: bool
    control: bool = True


class Renderer:
    """One tokenizer's chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        added = tokenizer.added_tokens_decoder.values()
        names = {str(token) for token in added if token.special} | {str(tokenizer.eos_token)}
        longest_first = sorted(names, key=lambda name: (-len(name), name))
        self._control = re.compile("|".join(re.escape(name) for name in longest_first))
        self._rendering = Rendering(tokenizer, self._control)

    def answers(self, messages: Sequence[Message], tools: Tools = (), loss_on: str = "answers") -> list[Piece]:
        """The conversation up to the end of its last answer; all answers, the last one or everything is trained.

        Raises:
            UnusableError: the template refuses the conversation, or changes what was said in an answer to be trained.
        """
        last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=None)
        if last is None:
            raise UnusableError("no assistant turn")
        talk = self._rendering.talk(messages[: last + 1], tools)
        text = self._rendering.render(talk)
        spans = self._spans(talk, text)
        if isinstance(spans[-1], UnusableError):
            text = self._as_asked(talk, text)
            spans = self._spans(talk, text)
        if isinstance(spans[-1], UnusableError):
            raise spans[-1]
        if loss_on == "answers" and (lost := [span for span in spans if isinstance(span, UnusableError)]):
            raise UnusableError(lost[0].reason, "objective.loss_on=last_answer needs only the last one")
        found = [span for span in spans if not isinstance(span, UnusableError)]
        pieces = list(_cut(text[: found[-1][1]], found, talk.typed, last_only=loss_on == "last_answer"))
        return [replace(piece, trained=True) for piece in pieces] if loss_on == "everything" else pieces

    def prompt(self, messages: Sequence[Message], tools: Tools = ()) -> list[Piece]:
        """The conversation and the opening of an answer to it, cut as ``answers`` would cut it."""
        talk = self._rendering.talk(messages, tools)
        text = self._rendering.render(talk, prompt=True)
        found = [span for span in self._spans(talk, text) if not isinstance(span, UnusableError)]
        return [replace(piece, trained=False) for piece in _cut(text, found, talk.typed)]

    def whole(self, messages: Sequence[Message], tools: Tools = ()) -> list[Piece]:
        """The whole conversation, all of it trained."""
        talk = self._rendering.talk(messages, tools)
        text = self._rendering.render(talk)
        return list(_cut(text, [(0, len(text))], talk.typed))

    def ends_turn(self, text: str) -> bool:
        """Whether the text ends with a control token."""
        return any(match.end() == len(text) for match in self._control.finditer(text))

    @property
    def knows_tools(self) -> bool:
        """Whether the template writes tools, calls and results itself; they are written as plain text otherwise."""
        return self._rendering.form_of_calls is not None

    def _as_asked(self, talk: Talk, text: str) -> str:
        """The text with its last answer behind the very prompt for it, where that is written otherwise once answered.

        Mistral's templates, for one, write the system prompt only as long as the last question has no answer.
        """
        asked, said = ([""] + [chat["content"].strip() for chat in talk.chats])[-2:]
        if not asked:
            return text
        opening = self._rendering.render(talk, len(talk.chats) - 1, prompt=True)
        _, found, tail = text.rpartition(asked + opening.rpartition(asked)[2])
        return opening + tail if found and tail.lstrip().startswith(said) else text

    def _spans(self, talk: Talk, text: str) -> list[Span | UnusableError]:
        """Where each answer is in the rendered text, end-of-turn token included, or why that cannot be said."""
        turns = talk.answers
        starts = [self._start(talk, index, text) for index in turns]
        spans: list[Span | UnusableError] = []
        for place, (index, start) in enumerate(zip(turns, starts, strict=True)):
            if isinstance(start, UnusableError):
                spans.append(start)
                continue
            limit = next((later for later in starts[place + 1 :] if isinstance(later, int)), len(text))
            try:
                spans.append((start, self._end(talk, index, text, start, limit)))
            except UnusableError as problem:
                spans.append(problem)
        return spans

    def _start(self, talk: Talk, index: int, text: str) -> int | UnusableError:
        """Where an answer starts: the template's opening of one, behind all that comes before."""
        try:
            opening = self._rendering.render(talk, index, prompt=True)
        except UnusableError as problem:
            return problem if index else UnusableError("the chat template cannot begin a conversation with an answer")
        if not text.startswith(opening):
            return UnusableError("the chat template opens an answer in another way than it asks for one")
        return len(opening)

    def _end(self, talk: Talk, index: int, text: str, start: int, limit: int) -> int:
        turn = text if index + 1 == len(talk.chats) else self._rendering.render(talk, index + 1)
        unchanged = text.startswith(turn)  # some templates write an answer otherwise once it is not the last
        if unchanged:
            limit = min(limit, len(turn))
        chat = talk.chats[index]
        calls = chat.get("tool_calls")
        # The template writes calls in a way of its own, but the name of a tool stands there as it is.
        said = calls[-1]["function"]["name"] if calls else chat["content"].strip()
        found = text.rfind(said, start, limit) if calls else text.find(said, start, limit)
        if found < 0:
            raise UnusableError("the chat template does not write the answer as it is")
        marks = [mark.end() for mark in self._control.finditer(text, found + len(said), limit)]
        if not unchanged and (calls or not marks):
            raise UnusableError("the chat template does not mark the end of an answer")
        return marks[-1 if calls else 0] if marks else limit


def _cut(
    text: str, spans: Sequence[Span], typed: Mapping[str, str] | None, *, last_only: bool = False
) -> Iterator[Piece]:
    at = 0
    for start, end in spans:
        yield from _reveal(text[at:start], False, typed)
        yield from _reveal(text[start:end], not last_only or (start, end) == spans[-1], typed)
        at = end
    yield from _reveal(text[at:], False, typed)


def _reveal(text: str, trained: bool, typed: Mapping[str, str] | None) -> Iterator[Piece]:
    """The text as one piece, or as several where hidden control tokens come back as what was typed."""
    if not typed:
        if text:
            yield Piece(text, trained)
        return
    for part in re.split(f"([{''.join(typed)}])", text):
        if part:
            yield Piece(typed.get(part, part), trained, control=part not in typed)
