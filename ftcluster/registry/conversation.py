"""A conversation with a loaded model: turns remembered, the oldest let go when the model has no room for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ftcluster.data.rows.example import Message
from ftcluster.errors import UsageError
from ftcluster.evaluation.answers import tokeniser_of
from ftcluster.models.base import Base
from ftcluster.models.streaming import stream_answer


@dataclass(frozen=True)
class Reply:
    """``finished``: it ended by itself; ``forgotten``: turns dropped for want of room before it was written."""

    text: str
    finished: bool
    tokens: int
    forgotten: int = 0


class Conversation:
    """Multi-turn and greedy; prompts are written as training and evaluation write them.

    Raises:
        DataError: the tokenizer has no chat template.
    """

    def __init__(self, base: Base, *, system: str = "", max_new_tokens: int = 256) -> None:
        self._base = base
        self._tokeniser = tokeniser_of(base.tokenizer)
        self._stops = self._tokeniser.stop_ids()
        self._opening = [Message("system", system)] if system else []
        self._turns: list[Message] = []
        self._max_new_tokens = max_new_tokens

    def say(self, text: str, write: Callable[[str], None] = lambda _: None) -> Reply:
        """The model's reply, also given to ``write`` piece by piece; nothing is remembered of one that broke off.

        Raises:
            DataError: the model's chat template refuses this conversation.
            UsageError: the text alone is longer than the model can read.
        """
        turns, prompt = self._fitting([*self._turns, Message("user", text)])
        tokens = stream_answer(self._base, prompt, self._max_new_tokens, write, stops=self._stops)
        finished = bool(tokens) and tokens[-1] in self._stops
        answer = str(self._base.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        forgotten = len(self._turns) + 1 - len(turns)
        self._turns = [*turns, Message("assistant", answer)]
        return Reply(answer, finished, len(tokens), forgotten)

    def reset(self) -> None:
        """Forget all turns; the system prompt stays."""
        self._turns = []

    def _fitting(self, turns: list[Message]) -> tuple[list[Message], list[int]]:
        """The newest turns that leave room for an answer, and their tokens."""
        room = getattr(self._base.model.config, "max_position_embeddings", None) or 1 << 30
        while True:
            prompt = self._tokeniser.prompt([*self._opening, *turns])
            if len(prompt) + self._max_new_tokens <= room:
                return turns, prompt
            if len(turns) < 3:
                raise UsageError(
                    f"{len(prompt)} tokens and {self._max_new_tokens} for the answer are more than the model's {room}",
                    where="prompt",
                    remedy="write less, or lower --max-new-tokens",
                )
            turns = turns[2:]  # a question and its answer
