"""From an example to tokens and trained flags, with the model's tokenizer and chat template.

Pieces of text come from ``spans``; each is tokenised on its own, so no token straddles the border between what
is trained and what is not, and a prompt has the same tokens in training and when the model answers it.
Owns no reading of rows and no storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from ftcluster.data.files.source import BadRow
from ftcluster.data.prepared.documents import Document
from ftcluster.data.rows.example import Example, Message
from ftcluster.data.text.encoding import Encoder
from ftcluster.data.text.rendering import UnusableError
from ftcluster.data.text.spans import Piece, Renderer, Tokenizer
from ftcluster.data.text.tools import PROBE, PROBE_TOOLS, Tools, answer_text, uses_tools
from ftcluster.errors import DataError

OBJECTIVES = ("sft", "pretrain")
LOSS_ON = ("answers", "last_answer", "everything")


def tokenise(example: Example, tokenizer: Tokenizer, objective: str) -> Document | BadRow:
    """One example's document; ``Tokeniser`` does many at a time."""
    return Tokeniser(tokenizer, objective)([example])[0]


def prompt_of(example: Example) -> tuple[tuple[Message, ...], str]:
    """The turns before the last answer, and that answer, calls of tools as text.

    A plain text has no turns and is its own reference.
    """
    answers = [index for index, message in enumerate(example.messages) if message.role == "assistant"]
    if not answers:
        return example.messages, example.text
    return example.messages[: answers[-1]], answer_text(example.messages[answers[-1]])


class Tokeniser:
    """Tokenises examples for one model and objective.

    "sft" trains answers up to and including their end-of-turn token, and drops what follows the last one; with
    ``loss_on`` "last_answer" only that one, with "everything" all turns up to its end.
    "pretrain" trains every token and a final end-of-text token.

    Raises:
        DataError: unknown objective or ``loss_on``, or a tokenizer without end-of-text token.
    """

    def __init__(self, tokenizer: Tokenizer, objective: str = "sft", loss_on: str = "answers") -> None:
        for field, value, known in (("name", objective, OBJECTIVES), ("loss_on", loss_on, LOSS_ON)):
            if value not in known:
                what = "objective" if field == "name" else field
                raise DataError(
                    f'unknown {what} "{value}"', where=f"objective.{field}", remedy=f"known: {', '.join(known)}"
                )
        if tokenizer.eos_token_id is None:
            raise DataError(
                "the tokenizer has no end-of-text token, so a model would never learn to stop",
                where="model.path",
                remedy='name one as "eos_token" in tokenizer_config.json of the model\'s folder',
            )
        self._tokenizer = tokenizer
        self._objective, self._loss_on = objective, loss_on
        self._eos, self._eos_id = str(tokenizer.eos_token), int(tokenizer.eos_token_id)
        self._renderer = Renderer(tokenizer)
        self._encode = Encoder(tokenizer)

    def __call__(self, examples: Sequence[Example]) -> list[Document | BadRow]:
        """A document for each example, or why it has none.

        Raises:
            DataError: conversations without a chat template, or plain text where answers are to be trained.
        """
        cut = [self._pieces(example) for example in examples]
        tokens = iter(self._encode([pieces for pieces in cut if not isinstance(pieces, BadRow)]))
        return [
            pieces if isinstance(pieces, BadRow) else self._document(example, pieces, next(tokens))
            for example, pieces in zip(examples, cut, strict=True)
        ]

    def prompt(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """Tokens after which the model is to answer, the same as in a document of the answered conversation.

        Raises:
            DataError: no chat template, or one that refuses these messages.
        """
        self._need_template()
        try:
            pieces = self._renderer.prompt(messages, tools)
        except UnusableError as problem:
            raise DataError(
                str(problem), where="prompt", remedy="write it as the model's template expects"
            ) from problem
        return list(chain.from_iterable(self._encode([pieces])[0]))

    def reference(self, example: Example) -> str:
        """The last answer as this model is to write it: ``prompt_of``'s, with calls in the template's own form."""
        messages, text = prompt_of(example)
        if not messages or not example.messages[len(messages)].tool_calls or not self._knows_tools:
            return text
        try:
            pieces = self._renderer.answers(example.messages, example.tools, "last_answer")
        except UnusableError:
            return text
        answer = [piece for piece in pieces if piece.trained]
        tokens = list(chain.from_iterable(self._encode([answer])[0]))
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: end of text, and the template's ends of a turn and of a call.

        Raises:
            DataError: no chat template.
        """
        probes = [Example("", 0, PROBE[:1] + PROBE[3:])]
        if self._knows_tools:
            probes.append(Example("", 0, PROBE[:2], tools=tuple(PROBE_TOOLS)))
        documents = Tokeniser(self._tokenizer)(probes)
        last = {int(document.tokens[-1]) for document in documents if not isinstance(document, BadRow)}
        return tuple(sorted(last | {self._eos_id}))

    def writes_tools_as_text(self, example: Example) -> bool:
        """Whether it has tools that the chat template knows nothing of, so that they are text in Hermes' form.

        Raises:
            DataError: no chat template.
        """
        return uses_tools(example.messages, example.tools) and not self._knows_tools

    @property
    def _knows_tools(self) -> bool:
        self._need_template()
        return self._renderer.knows_tools

    def _need_template(self) -> None:
        if not self._tokenizer.chat_template:
            raise DataError(
                "the tokenizer has no chat template, so conversations cannot be written down",
                where="model.path",
                remedy="choose one with data.template=chatml or data.template=plain, put a chat_template.jinja into "
                "the model's folder, or take its instruction-tuned release; plain text needs none (data.format=text "
                "objective=pretrain)",
            )

    def _pieces(self, example: Example) -> list[Piece] | BadRow:
        if not example.messages:
            if self._objective == "sft":
                raise DataError(
                    "plain text has no answers to train",
                    where=f"{example.file}:{example.line}",
                    remedy="use objective=pretrain, or data of a format with answers",
                )
            return [Piece(example.text, trained=True, control=False)]
        self._need_template()
        try:
            if self._objective == "pretrain":
                return self._renderer.whole(example.messages, example.tools)
            return self._renderer.answers(example.messages, example.tools, self._loss_on)
        except UnusableError as problem:
            return BadRow(example.file, example.line, problem.reason, problem.detail)

    def _document(self, example: Example, pieces: list[Piece], tokens: list[list[int]]) -> Document | BadRow:
        opening = [] if example.messages else self._encode.opening
        end = [self._eos_id] if self._needs_end(pieces[-1]) else []
        ids = np.array([*opening, *chain.from_iterable(tokens), *end], np.int32)
        flags = [False, *(piece.trained for piece in pieces), True]
        trained = np.repeat(np.array(flags), [len(opening), *map(len, tokens), len(end)])
        if not trained[1:].any():  # the first token of a document is nobody's target
            return BadRow(example.file, example.line, "too short: no token to train")
        return Document(ids, trained)

    def _needs_end(self, last: Piece) -> bool:
        """Whether the template has not written the end of the document itself."""
        if not last.control:
            return True
        if self._objective == "sft":
            return not self._renderer.ends_turn(last.text)
        return not last.text.rstrip().endswith(self._eos)
