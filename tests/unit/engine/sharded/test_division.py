"""Documents over ranks."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.contracts.batch import Batch
from ftcluster.engine.sharded.division import divide, part_of

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=30).map(tuple)


def _batch(lengths: tuple[int, ...]) -> Batch:
    count = sum(lengths)
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    tokens_T = torch.arange(count)
    return Batch(tokens_T, tokens_T + 1, torch.rand(count), positions_T, lengths, (0,) * len(lengths))


def test_the_longest_go_first_and_each_to_whom_has_least() -> None:
    assert divide((3, 9, 4, 4, 1), 2) == [[1, 4], [0, 2, 3]]


@given(LENGTHS, st.integers(1, 6))
def test_every_document_has_one_rank_and_none_has_much_more_than_another(lengths: tuple[int, ...], ranks: int) -> None:
    rows = divide(lengths, ranks)
    assert sorted(row for mine in rows for row in mine) == list(range(len(lengths)))
    tokens = [sum(lengths[row] for row in mine) for mine in rows]
    assert max(tokens) - min(tokens) <= max(lengths)


@given(LENGTHS, st.integers(1, 6))
def test_parts_put_together_are_the_batch(lengths: tuple[int, ...], ranks: int) -> None:
    batch = _batch(lengths)
    seen = torch.full((sum(lengths),), -1)
    for rank in range(ranks):
        part = part_of(batch, rank, ranks)
        assert part.batch.lengths == tuple(lengths[row] for row in part.rows) or not part.rows
        if part.rows:
            seen[part.places_T] = part.batch.tokens_T
            assert torch.equal(part.batch.weights_T, batch.weights_T[part.places_T])
            assert torch.equal(part.batch.positions_T, batch.positions_T[part.places_T])
    assert torch.equal(seen, batch.tokens_T)


def test_a_rank_without_a_document_reads_one_token_of_weight_zero() -> None:
    part = part_of(_batch((4,)), 1, 2)
    assert (part.rows, part.batch.lengths, part.batch.weights_T.tolist()) == ((), (1,), [0.0])
