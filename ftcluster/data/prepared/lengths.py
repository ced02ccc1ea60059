"""What becomes of a row with more tokens than ``data.max_length``: dropped, cut at an end, or split.

    max_length 4        p p p p a a .        (p: prompt, a: answer, .: its end-of-turn token; a and . are trained)
    drop                -
    truncate_left             p a a .        the oldest tokens go, the last answer stays whole
    truncate_right      p p p p              the end goes; here no trained token is left, so the row is dropped
    split               p p p p | p a a .    windows that share one token, so that every token has one before it

Nothing is cut in silence: ``Fitted`` says what was done, and the report counts it. Owns no counting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftcluster.data.prepared.documents import Document

RULES = ("drop", "truncate_left", "truncate_right", "split")


@dataclass(frozen=True)
class Fitted:
    """The documents a row became; ``dropped`` is why there are none, ``cuts`` is what was done to it."""

    documents: tuple[Document, ...] = ()
    dropped: str = ""
    cuts: tuple[str, ...] = ()


def fit(document: Document, rule: str, max_length: int, *, answers: bool) -> Fitted:
    """Apply a rule; ``answers``: trained tokens are answers, which a cut from the left must leave whole."""
    if len(document.tokens) <= max_length:
        return Fitted((document,))
    if rule == "truncate_left":
        return _truncate_left(document, max_length, answers=answers)
    if rule == "truncate_right":
        return _truncate_right(document, max_length)
    if rule == "split":
        return _split(document, max_length)
    return Fitted(dropped=f"longer than {max_length} tokens (data.max_length)")


def trains(document: Document) -> bool:
    """Whether some token is a target: the first of a document never is."""
    return bool(document.trained[1:].any())


def _truncate_left(document: Document, max_length: int, *, answers: bool) -> Fitted:
    start = len(document.tokens) - max_length
    if answers:
        untrained = np.flatnonzero(~document.trained[: int(np.flatnonzero(document.trained)[-1])])
        answer = int(untrained[-1]) + 1 if len(untrained) else 0  # where the last answer begins
        if answer <= start:  # it needs a token before it as well
            return Fitted(dropped=f"its answer alone is longer than {max_length} tokens (data.max_length)")
    kept = Document(document.tokens[start:], document.trained[start:])
    if not trains(kept):
        return Fitted(dropped=f"no trained token within {max_length} tokens (data.max_length)")
    return Fitted((kept,), cuts=(f"oldest tokens cut off to {max_length} (data.too_long=truncate_left)",))


def _truncate_right(document: Document, max_length: int) -> Fitted:
    kept = Document(document.tokens[:max_length], document.trained[:max_length])
    if not trains(kept):
        return Fitted(dropped=f"no trained token within {max_length} tokens (data.max_length)")
    return Fitted((kept,), cuts=(f"answer cut off at {max_length} tokens (data.too_long=truncate_right)",))


def _split(document: Document, max_length: int) -> Fitted:
    tokens, trained = document.tokens, document.trained
    starts = range(0, len(tokens) - 1, max_length - 1)
    windows = [Document(tokens[at : at + max_length], trained[at : at + max_length].copy()) for at in starts]
    for window in windows[1:]:
        window.trained[0] = False  # trained at the end of the window before
    kept = tuple(window for window in windows if trains(window))
    if not kept:
        return Fitted(dropped=f"no trained token in any window of {max_length} tokens (data.too_long=split)")
    lost = len(windows) - len(kept)
    return Fitted(
        kept,
        cuts=(
            f"split into windows of {max_length} tokens (data.too_long=split)",
            *["windows without a trained token left out (data.too_long=split)"] * bool(lost),  # counted are rows
        ),
    )
