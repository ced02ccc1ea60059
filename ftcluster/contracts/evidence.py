"""What a model did on the test rows: the raw material of every comparison and of every promotion."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TestRecord:
    """Losses and answers per test row, in the order of the prepared test split; all tuples have its length."""

    __test__ = False  # not a test class, whatever its name says to pytest

    subject: str  # run name, or "base"
    data: str  # hash of the prepared data: records of different data cannot be compared
    losses: tuple[float, ...]  # nats, summed over the row's trained tokens
    weights: tuple[float, ...]  # trained tokens of the row
    prompts: tuple[str, ...]  # last user turn, for people to read
    references: tuple[str, ...]  # empty string where the data has no answer (plain text)
    answers: tuple[str, ...]  # greedy answer; empty tuple where none was generated
    finished: tuple[bool, ...]  # the answer ended by itself before the token limit

    @property
    def loss(self) -> float:
        """Mean nats per trained token over all rows."""
        return sum(self.losses) / sum(self.weights) if sum(self.weights) else float("nan")

    @property
    def correct(self) -> tuple[bool, ...]:
        """Exact match per row after trimming outer white space."""
        return tuple(a.strip() == r.strip() for a, r in zip(self.answers, self.references, strict=False))

    @property
    def exact_match(self) -> float:
        """Share of rows answered exactly, 0 to 1; NaN where no answers were generated."""
        return sum(self.correct) / len(self.correct) if self.correct else float("nan")
