"""An answer as it is being written: text piece by piece, the same text that comes back at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ftcluster.models.base import Base
from ftcluster.models.generation import generate

_UNFINISHED = "\ufffd"  # what half a character decodes to


def stream_answer(
    base: Base, prompt: Sequence[int], max_new_tokens: int, write: Callable[[str], None], *, stops: Sequence[int] = ()
) -> list[int]:
    """Greedy answer to one prompt as ``generate`` gives it; ``write`` gets its text in pieces as they become whole."""
    pieces = _Pieces(base.tokenizer, write)
    return generate(base, [prompt], max_new_tokens, stops=stops, streamer=pieces)[0]


class _Pieces:
    """A transformers streamer: ``put`` is called with the prompt first, then with each new token.

    All tokens are decoded each time, because a token's text can depend on the one before it; half a character
    of a text in UTF-8 bytes waits for its other half.
    """

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._write = write
        self._tokens: list[int] | None = None
        self._shown = 0

    def put(self, tokens: Any) -> None:
        if self._tokens is None:
            self._tokens = []
            return
        self._tokens += tokens.flatten().tolist()
        text = self._text()
        if not text.endswith(_UNFINISHED):
            self._show(text)

    def end(self) -> None:
        self._show(self._text())

    def _text(self) -> str:
        # Leading white space is taken off as evaluation takes it off, so that both show the same answer.
        return str(self._tokenizer.decode(self._tokens or [], skip_special_tokens=True)).lstrip()

    def _show(self, text: str) -> None:
        if len(text) > self._shown:
            self._write(text[self._shown :])
            self._shown = len(text)
