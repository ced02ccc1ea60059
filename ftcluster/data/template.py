"""From an example to tokens and trained flags, with the model's tokenizer and chat template.

Pieces of text come from ``spans``; each is tokenised on its own, so no token straddles the border between what
is trained and what is not, and a prompt has the same tokens in training and when the model answers it.
Owns no reading of rows and no storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby

import numpy as np

from ftcluster.data.documents import Document
from ftcluster.data.formats import Example, Message
from ftcluster.data.source import BadRow
from ftcluster.data.spans import Piece, Renderer, Tokenizer, UnusableError
from ftcluster.errors import DataError

OBJECTIVES = ("sft", "pretrain")


def tokenise(example: Example, tokenizer: Tokenizer, objective: str) -> Document | BadRow:
    """One example's document; ``Tokeniser`` does many at a time."""
    return Tokeniser(tokenizer, objective)([example])[0]


def prompt_of(example: Example) -> tuple[tuple[Message, ...], str]:
    """The turns before the last answer, and that answer; a plain text has no turns and is its own reference."""
    answers = [index for index, message in enumerate(example.messages) if message.role == "assistant"]
    if not answers:
        return example.messages, example.text
    return example.messages[: answers[-1]], example.messages[answers[-1]].content


class Tokeniser:
    """Tokenises examples for one model and objective.

    "sft" trains answers up to and including their end-of-turn token, and drops what follows the last one;
    "pretrain" trains every token and a final end-of-text token.

    Raises:
        DataError: unknown objective, or a tokenizer without end-of-text token.
    """

    def __init__(self, tokenizer: Tokenizer, objective: str = "sft") -> None:
        if objective not in OBJECTIVES:
            raise DataError(
                f'unknown objective "{objective}"', where="objective.name", remedy=f"known: {', '.join(OBJECTIVES)}"
            )
        if tokenizer.eos_token_id is None:
            raise DataError(
                "the tokenizer has no end-of-text token, so a model would never learn to stop",
                where="model.path",
                remedy='name one as "eos_token" in tokenizer_config.json of the model\'s folder',
            )
        self._tokenizer = tokenizer
        self._objective = objective
        self._eos, self._eos_id = str(tokenizer.eos_token), int(tokenizer.eos_token_id)
        self._renderer = Renderer(tokenizer)
        opening = self._encode([""], add_special_tokens=True)[0]  # what the tokenizer wraps a text in
        self._opening = [token for token in opening if token != self._eos_id]
        # Some tokenizers put a space before whatever they are given, but not behind a control token.
        alone, behind = self._encode(["a", self._eos + "a"])
        self._anchor = "" if behind[1:] == alone else self._eos

    def __call__(self, examples: Sequence[Example]) -> list[Document | BadRow]:
        """A document for each example, or why it has none.

        Raises:
            DataError: conversations without a chat template, or plain text where answers are to be trained.
        """
        cut = [self._pieces(example) for example in examples]
        tokens = iter(self._encode_pieces([pieces for pieces in cut if not isinstance(pieces, BadRow)]))
        return [
            pieces if isinstance(pieces, BadRow) else self._document(example, pieces, next(tokens))
            for example, pieces in zip(examples, cut, strict=True)
        ]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens after which the model is to answer, the same as in a document of the answered conversation.

        Raises:
            DataError: no chat template, or one that refuses these messages.
        """
        self._need_template()
        try:
            pieces = self._renderer.prompt(messages)
        except UnusableError as problem:
            raise DataError(
                str(problem), where="prompt", remedy="write it as the model's template expects"
            ) from problem
        return list(chain.from_iterable(self._encode_pieces([pieces])[0]))

    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: end of text, and the template's end of turn.

        Raises:
            DataError: no chat template.
        """
        probe = Example("", 0, (Message("user", "a"), Message("assistant", "b")))
        document = tokenise(probe, self._tokenizer, "sft")
        last = set() if isinstance(document, BadRow) else {int(document.tokens[-1])}
        return tuple(sorted(last | {self._eos_id}))

    def _need_template(self) -> None:
        if not self._tokenizer.chat_template:
            raise DataError(
                "the tokenizer has no chat template, so conversations cannot be written down",
                where="model.path",
                remedy="put a chat_template.jinja into the model's folder, or take the model's instruction-tuned "
                "release; plain text needs none (data.format=text objective=pretrain)",
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
        render = self._renderer.answers if self._objective == "sft" else self._renderer.whole
        try:
            return render(example.messages)
        except UnusableError as problem:
            return BadRow(example.file, example.line, str(problem))

    def _document(self, example: Example, pieces: list[Piece], tokens: list[list[int]]) -> Document | BadRow:
        opening = [] if example.messages else self._opening
        flags = [[piece.trained] * len(ids) for piece, ids in zip(pieces, tokens, strict=True)]
        ids, trained = (
            [*opening, *chain.from_iterable(tokens)],
            [*(False for _ in opening), *chain.from_iterable(flags)],
        )
        if self._needs_end(pieces[-1]):
            ids, trained = [*ids, self._eos_id], [*trained, True]
        if not any(trained[1:]):  # the first token of a document is nobody's target
            return BadRow(example.file, example.line, "too short: no token to train")
        return Document(np.array(ids, np.int32), np.array(trained, np.bool_))

    def _needs_end(self, last: Piece) -> bool:
        """Whether the template has not written the end of the document itself."""
        if not last.control:
            return True
        if self._objective == "sft":
            return not self._renderer.ends_turn(last.text)
        return not last.text.rstrip().endswith(self._eos)

    def _encode_pieces(self, documents: Sequence[Sequence[Piece]]) -> list[list[list[int]]]:
        """Tokens of each piece of each document; equal pieces are tokenised once."""
        keys = [
            [(piece.text, piece.control, piece.control and index > 0) for index, piece in enumerate(pieces)]
            for pieces in documents
        ]
        wanted = sorted(set(chain.from_iterable(keys)), key=lambda key: key[1:])
        known: dict[tuple[str, bool, bool], list[int]] = {}
        for (control, inside), group in groupby(wanted, key=lambda key: key[1:]):
            same = list(group)
            anchor = self._anchor if inside else ""
            encoded = self._encode([anchor + text for text, _, _ in same], split=not control)
            known |= zip(same, (ids[1:] if anchor else ids for ids in encoded), strict=True)
        return [[known[key] for key in pieces] for pieces in keys]

    def _encode(self, texts: list[str], *, split: bool = False, add_special_tokens: bool = False) -> list[list[int]]:
        """Token ids; ``split`` takes control tokens in the text for plain text."""
        if not texts:
            return []
        encoded = self._tokenizer(
            texts,
            add_special_tokens=add_special_tokens,
            split_special_tokens=split,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return list(encoded["input_ids"])
