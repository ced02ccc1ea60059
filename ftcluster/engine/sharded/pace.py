"""Which rank is slower than the others, from what each of them told of its share of the newest passes.

A rank's seconds are those of its own work, without waiting for others. Ranks have unequal documents, so a rank is slow
only if it holds the others up and also needs longer for a token than they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WINDOW = 20  # passes that a rank keeps in mind
_ENOUGH = 5  # passes, before anybody is called slow
_RATIO = 1.5  # times the median of the others
_LEAST = 0.02  # seconds a pass


@dataclass(frozen=True)
class Stint:
    """One rank's part of a call; a rank that had nothing to train has no tokens."""

    seconds: float
    tokens: int


@dataclass(frozen=True)
class Slowest:
    """The rank with the longest work per pass, and the median of the others'."""

    rank: int
    host: str
    seconds: float
    others: float
    slow: bool  # enough to be named

    @property
    def ratio(self) -> float:
        return self.seconds / max(self.others, 1e-9)

    def __str__(self) -> str:
        took = f"took {self.seconds:.2g} s for its part of a pass where the others took {self.others:.2g} s"
        return f"rank {self.rank} on {self.host} {took}: they wait for it"


def slowest(hosts: Sequence[str], told: Sequence[Sequence[Stint]]) -> Slowest | None:
    """From each rank's host and stints, those of the same passes; those in which some rank had nothing do not count.

    None with fewer than two ranks, or before they have worked together for a few passes.
    """
    passes = [each for each in zip(*told, strict=True) if all(stint.tokens for stint in each)]
    ranks = range(len(hosts))
    if len(passes) < _ENOUGH or len(ranks) < 2:
        return None
    seconds = [sum(each[rank].seconds for each in passes) / len(passes) for rank in ranks]
    tokens = [sum(each[rank].tokens for each in passes) for rank in ranks]
    rank = max(ranks, key=seconds.__getitem__)
    others = median(seconds[other] for other in ranks if other != rank)
    by_token = [seconds[each] / tokens[each] for each in ranks]
    usual = median(by_token[other] for other in ranks if other != rank)
    held_up = seconds[rank] > _RATIO * others and seconds[rank] - others > _LEAST
    return Slowest(rank, hosts[rank], seconds[rank], others, slow=held_up and by_token[rank] > _RATIO * usual)
