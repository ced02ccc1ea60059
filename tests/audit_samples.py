"""Examples and reports for the tests of the audit."""

from __future__ import annotations

import numpy as np

from ftcluster.data.audit import Facts, examine
from ftcluster.data.prepared.report import Dropped, EpochSummary, Report, SplitSummary
from ftcluster.data.rows.example import Example, Message
from ftcluster.data.rows.split import key


def pair(question: str, answer: str, line: int = 1, file: str = "rows.jsonl") -> Example:
    """A question and its answer."""
    return Example(file, line, (Message("user", question), Message("assistant", answer)))


def looked_at(*examples: Example, held_out: frozenset[int] = frozenset(), control: tuple[str, ...] = ()) -> Facts:
    """Facts of these examples; ``held_out`` are positions."""
    keys = [key(example) for example in examples]
    return examine(examples, keys, [at in held_out for at in range(len(examples))], control)


def report_of(facts: Facts, *, dropped: tuple[Dropped, ...] = (), bad: int = 0, duplicates: int = 0) -> Report:
    """A report as of a data set without a model."""
    left_out = sum(each.rows for each in dropped)
    used = facts.rows
    return Report(
        rows_read=used + left_out,
        rows_used=used,
        rows_bad=bad,
        duplicates=duplicates,
        max_length=512,
        formats={"rows.jsonl": "question_answer"},
        dropped=dropped,
        cut=(),
        lengths=(),
        splits={
            split: SplitSummary.of(used if split == "train" else 0, np.empty(0, np.int64), 0)
            for split in ("train", "validation", "test")
        },
        sources={},
        epoch=EpochSummary(0, 0),
        audit=facts.findings(),
    )
