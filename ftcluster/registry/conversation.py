"""A conversation with a loaded model: turns remembered, the oldest let go when the model has no room for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jinja2 import TemplateError

from ftcluster.errors import ModelError, UsageError
from ftcluster.evaluation.answers import prompt_tokens
from ftcluster.models.base import Base
from ftcluster.models.generation import stop_tokens
from ftcluster.models.streaming import stream_answer


@dataclass(frozen=True)
class Reply:
    """``finished``: it ended by itself; ``forgotten``: turns dropped for want of room before it was written."""

    text: str
    finished: bool
    tokens: int
    forgotten: int = 0


class Conversation:
    """Multi-turn, greedy, in the model's own chat template."""

    def __init__(self, base: Base, *, system: str = "", max_new_tokens: int = 256) -> None:
        self._base = base
        self._opening = [{"role": "system", "content": system}] if system else []
        self._turns: list[dict[str, str]] = []
        self._max_new_tokens = max_new_tokens

    def say(self, text: str, write: Callable[[str], None] = lambda _: None) -> Reply:
        """The model's reply, also given to ``write`` piece by piece; nothing is remembered of one that broke off.

        Raises:
            ModelError: the model has no chat template, or one that refuses this conversation.
            UsageError: the text alone is longer than the model can read.
        """
        turns, prompt = self._fitting([*self._turns, {"role": "user", "content": text}])
        tokens = stream_answer(self._base, prompt, self._max_new_tokens, write)
        finished = bool(tokens) and tokens[-1] in stop_tokens(self._base)
        answer = str(self._base.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        forgotten = len(self._turns) + 1 - len(turns)
        self._turns = [*turns, {"role": "assistant", "content": answer}]
        return Reply(answer, finished, len(tokens), forgotten)

    def reset(self) -> None:
        """Forget all turns; the system prompt stays."""
        self._turns = []

    def _fitting(self, turns: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
        """The newest turns that leave room for an answer, and their tokens."""
        room = getattr(self._base.model.config, "max_position_embeddings", None) or 1 << 30
        while True:
            prompt = self._tokens(turns)
            if len(prompt) + self._max_new_tokens <= room:
                return turns, prompt
            if len(turns) < 3:
                raise UsageError(
                    f"{len(prompt)} tokens and {self._max_new_tokens} for the answer are more than the model's {room}",
                    where="prompt",
                    remedy="write less, or lower --max-new-tokens",
                )
            turns = turns[2:]  # a question and its answer

    def _tokens(self, turns: list[dict[str, str]]) -> list[int]:
        try:
            return prompt_tokens(self._base.tokenizer, [*self._opening, *turns])
        except (ValueError, TemplateError) as error:
            raise ModelError(
                f"its chat template cannot write this down: {str(error).splitlines()[0]}",
                where=str(self._base.folder),
                remedy="talk to an instruction-tuned model, or put a chat_template.jinja into its folder; "
                "some templates take no system prompt",
            ) from error
