"""A batch may belong to several trials; loss sums add where means do not."""

from __future__ import annotations

import math

import torch

from ftcluster.contracts.batch import Batch, LossSums

BATCH = Batch(
    tokens_T=torch.tensor([10, 11, 12, 20, 21, 30, 31, 32, 33]),
    targets_T=torch.tensor([11, 12, 0, 21, 0, 31, 32, 33, 0]),
    weights_T=torch.tensor([1.0, 0.5, 0.0, 1.0, 0.0, 0.25, 1.0, 1.0, 0.0]),
    positions_T=torch.tensor([0, 1, 2, 0, 1, 0, 1, 2, 3]),
    lengths=(3, 2, 4),
    slots=(0, 1, 0),
)


def test_every_token_knows_its_document_and_its_slot() -> None:
    assert BATCH.documents_T.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert BATCH.slots_T.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0]


def test_the_weight_of_a_slot_is_that_of_its_own_documents() -> None:
    assert (BATCH.weight(0), BATCH.weight(1), BATCH.weight(7)) == (3.75, 1.0, 0.0)


def test_selecting_a_slot_keeps_its_documents_in_their_order() -> None:
    mine = BATCH.select(0)
    assert mine.tokens_T.tolist() == [10, 11, 12, 30, 31, 32, 33]
    assert mine.targets_T.tolist() == [11, 12, 0, 31, 32, 33, 0]
    assert mine.weights_T.tolist() == [1.0, 0.5, 0.0, 0.25, 1.0, 1.0, 0.0]
    assert mine.positions_T.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert (mine.lengths, mine.slots) == ((3, 4), (0, 0))
    assert mine.select(0) is mine


def test_a_slot_that_is_not_there_selects_nothing() -> None:
    nothing = BATCH.select(7)
    assert (len(nothing.tokens_T), nothing.lengths) == (0, ())


def test_loss_sums_add_over_micro_batches_and_their_mean_weighs_each_token_alike() -> None:
    # 3 tokens of mean 2.0 and 1 token of mean 6.0: the mean over tokens is 3.0, the mean of means would be 4.0.
    total = LossSums(6.0, 3.0, 5) + LossSums(6.0, 1.0, 2)
    assert total == LossSums(12.0, 4.0, 7)
    assert total.mean == 3.0
    assert sum([LossSums(1.0, 2.0, 3)], start=LossSums()) == LossSums(1.0, 2.0, 3)


def test_the_mean_of_nothing_is_nan() -> None:
    assert math.isnan(LossSums(tokens=5).mean)


def test_two_parts_of_a_batch_are_the_batch() -> None:
    for at in (1, 2):
        one, other = BATCH.cut(at)
        assert (one.lengths, other.lengths) == (BATCH.lengths[:at], BATCH.lengths[at:])
        again = Batch.joined([one, other])
        assert (again.lengths, again.slots) == (BATCH.lengths, BATCH.slots)
        for name in ("tokens_T", "targets_T", "weights_T", "positions_T"):
            assert torch.equal(getattr(again, name), getattr(BATCH, name))
