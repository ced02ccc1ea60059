"""Which languages the rows are in: the beginnings of some rows, named by py3langid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

_SHORTEST = 20  # characters below which a guess means nothing


def languages(starts: Sequence[str]) -> dict[str, Any]:
    """How many beginnings were looked at, and the share of each language in them, the largest first."""
    long_enough = [text for text in starts if len(text.strip()) >= _SHORTEST]
    if not long_enough:
        return {"looked_at": 0, "shares": {}}
    from py3langid import classify

    counted = Counter(str(classify(text)[0]) for text in long_enough)
    shares = {name: round(count / len(long_enough), 4) for name, count in counted.most_common()}
    return {"looked_at": len(long_enough), "shares": shares}
