"""Every document once per epoch, targets never across documents, and a batch is a function of its step."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcluster.data.prepared.batches import Loader, collate, evaluation_batches
from ftcluster.data.prepared.documents import Document, Documents

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=40)


def _documents(sizes: list[int], seed: int = 0) -> Documents:
    """Document i holds tokens 100 i, 100 i + 1, ..., some of them trained."""
    rng = np.random.default_rng(seed)
    return Documents.of(
        [
            Document(np.arange(100 * i, 100 * i + size, dtype=np.int32), rng.random(size) < 0.5)
            for i, size in enumerate(sizes)
        ]
    )


def _pair(tokens: list[int], trained: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(tokens, np.int32), np.array(trained, np.bool_)


def test_the_drawing_of_the_batch_contract() -> None:
    batch = collate([_pair([1, 2, 3], [0, 1, 1]), _pair([4, 5], [1, 1]), _pair([6], [1])], [0, 1, 0])
    assert batch.tokens_T.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.targets_T.tolist() == [2, 3, 0, 5, 0, 0]
    assert batch.weights_T.tolist() == [1, 1, 0, 1, 0, 0]
    assert batch.positions_T.tolist() == [0, 1, 2, 0, 1, 0]
    assert (batch.lengths, batch.slots) == ((3, 2, 1), (0, 1, 0))
    assert [batch.tokens_T.dtype, batch.targets_T.dtype, batch.positions_T.dtype] == [torch.int64] * 3
    assert batch.weights_T.dtype == torch.float32


@given(lengths, st.integers(0, 99))
def test_targets_stay_inside_their_document_and_weights_are_those_of_the_targets(sizes: list[int], seed: int) -> None:
    documents = _documents(sizes, seed)
    pairs = [documents.get(i) for i in range(len(documents))]
    batch = collate(pairs, [0] * len(pairs))
    at = 0
    for tokens, trained in pairs:
        here = slice(at, at + len(tokens))
        assert batch.targets_T[here][:-1].tolist() == tokens[1:].tolist()
        assert batch.weights_T[here].tolist() == [*trained[1:].tolist(), 0]
        assert batch.positions_T[here].tolist() == list(range(len(tokens)))
        at += len(tokens)
    first_tokens = sum(bool(trained[0]) for _, trained in pairs)
    assert batch.weight(0) == documents.trained_tokens - first_tokens


@settings(deadline=None)
@given(lengths, st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**63), st.integers(0, 3))
def test_an_epoch_reads_every_document_exactly_once(
    sizes: list[int], batch_size: int, micro: int, seed: int, epoch: int
) -> None:
    loader = Loader(_documents(sizes), batch_size, micro, seed, slot=2)
    steps = range(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch)
    per_step = [loader.step_batches(step) for step in steps]
    firsts = [int(t) for step in per_step for b in step for t in b.tokens_T[b.positions_T == 0]]
    assert sorted(firsts) == [100 * i for i in range(len(sizes))]
    assert all(len(b.lengths) <= micro and set(b.slots) == {2} for step in per_step for b in step)
    rows = [sum(len(b.lengths) for b in step) for step in per_step]
    assert rows[:-1] == [batch_size] * (len(rows) - 1)
    assert rows[-1] == len(sizes) - batch_size * (len(rows) - 1)
    tokens = sum(len(b.tokens_T) for step in per_step for b in step)
    assert tokens / len(rows) == loader.tokens_per_step


@settings(deadline=None)
@given(lengths, st.integers(1, 9), st.integers(12, 40), st.integers(0, 2**32))
def test_packed_micro_batches_hold_the_rows_of_their_step_once_each_and_never_more_than_they_may(
    sizes: list[int], batch_size: int, micro_tokens: int, seed: int
) -> None:
    documents = _documents(sizes)
    packed = Loader(documents, batch_size, 1, seed, micro_tokens=micro_tokens)
    plain = Loader(documents, batch_size, batch_size, seed)
    for step in range(2 * plain.steps_per_epoch):
        (whole,) = plain.step_batches(step)
        batches = packed.step_batches(step)
        assert all(len(batch.tokens_T) <= micro_tokens for batch in batches)
        firsts = sorted(int(t) for batch in batches for t in batch.tokens_T[batch.positions_T == 0])
        assert firsts == sorted(whole.tokens_T[whole.positions_T == 0].tolist())
        assert sum(batch.weight(0) for batch in batches) == whole.weight(0)


@given(lengths, st.integers(0, 99))
def test_an_epoch_of_mixed_sources_reads_its_documents_as_often_as_they_are_in_it(sizes: list[int], seed: int) -> None:
    epoch = np.sort(np.random.default_rng(seed).integers(0, len(sizes), 2 * len(sizes)))
    loader = Loader(_documents(sizes), 3, 3, seed, epoch=epoch)
    steps = [loader.step_batches(step) for step in range(loader.steps_per_epoch)]
    firsts = sorted(int(t) for step in steps for b in step for t in b.tokens_T[b.positions_T == 0])
    assert firsts == [100 * i for i in epoch]
    tokens = sum(len(b.tokens_T) for step in steps for b in step)
    assert tokens / len(steps) == loader.tokens_per_step


def test_a_step_is_the_same_whatever_was_read_before_it() -> None:
    documents = _documents(list(range(1, 12)))
    straight = Loader(documents, 4, 2, seed=5)
    expected = [straight.step_batches(step) for step in range(9)]
    for step in (8, 0, 4, 3, 8):
        for batch, same in zip(Loader(documents, 4, 2, seed=5).step_batches(step), expected[step], strict=True):
            assert torch.equal(batch.tokens_T, same.tokens_T)
            assert batch.lengths == same.lengths


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    documents = _documents([3] * 50)
    orders = [Loader(documents, 4, 4, seed).order(epoch).tolist() for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert Loader(documents, 9, 3, 1).order(1).tolist() == orders[1]


def test_the_order_is_the_same_on_every_machine_and_numpy_version() -> None:
    assert Loader(_documents([1] * 8), 4, 4, seed=17).order(0).tolist() == [7, 4, 3, 2, 0, 1, 5, 6]


def test_documents_of_like_length_share_a_micro_batch() -> None:
    loader = Loader(_documents([9, 1, 8, 2, 7, 3, 6, 4]), 8, 2, seed=0)
    assert [batch.lengths for batch in loader.step_batches(0)] == [(1, 2), (3, 4), (6, 7), (8, 9)]


@given(lengths, st.integers(1, 30))
def test_evaluation_keeps_the_order_and_the_limit(sizes: list[int], max_tokens: int) -> None:
    documents = _documents(sizes)
    asked = list(range(len(sizes)))[::-2]
    batches = evaluation_batches(documents, asked, max_tokens)
    assert [length for batch in batches for length in batch.lengths] == [sizes[i] for i in asked]
    assert all(len(b.tokens_T) <= max_tokens or len(b.lengths) == 1 for b in batches)
    for one, following in pairwise(batches):
        assert len(one.tokens_T) + following.lengths[0] > max_tokens


def test_evaluating_nothing_takes_no_batch() -> None:
    assert evaluation_batches(_documents([3]), []) == []


def test_documents_are_counted_from_zero_and_only_to_their_end() -> None:
    documents = _documents([3, 2])
    assert documents.get(1)[0].tolist() == [100, 101]
    assert (len(documents), documents.tokens, documents.lengths.tolist()) == (2, 5, [3, 2])
    for index in (-1, 2):
        with pytest.raises(IndexError, match=f"document {index} of 2"):
            documents.get(index)


@given(lengths, st.integers(1, 5), st.integers(1, 3), st.integers(0, 3))
def test_the_widest_micro_batch_is_one_that_comes_and_none_is_wider(
    sizes: list[int], batch_size: int, micro: int, first: int
) -> None:
    loader = Loader(_documents(sizes), batch_size, micro, seed=3)
    until = first + 2 * loader.steps_per_epoch
    coming = [batch for step in range(first, until) for batch in loader.step_batches(step)]
    widest = loader.widest(first, until)
    assert len(widest.tokens_T) == max(len(batch.tokens_T) for batch in coming) <= loader.most_tokens
    assert any(batch.tokens_T.tolist() == widest.tokens_T.tolist() for batch in coming)
    assert loader.longest == max(sizes)


def test_of_micro_batches_filled_by_best_fit_it_is_from_the_step_that_may_fill_one() -> None:
    loader = Loader(_documents([2, 2, 9, 12, 1, 1]), 2, 1, seed=3, micro_tokens=12)
    assert len(loader.widest(0, loader.steps_per_epoch).tokens_T) == 12


def test_a_stretch_has_the_largest_micro_batch_of_an_epoch_or_one_nearly_as_large_or_not() -> None:
    loader = Loader(_documents([50, 60, 100, 98]), 1, 1, seed=3)
    sizes = [len(loader.widest(step, step + 1).tokens_T) for step in range(4)]
    assert sorted(sizes) == [50, 60, 98, 100]
    assert [loader.has_largest(step, step + 1) for step in range(4)] == [size > 90 for size in sizes]
    assert loader.has_largest(0, 4)


def test_a_stretch_without_steps_has_the_one_that_would_come() -> None:
    loader = Loader(_documents([3, 4, 5]), 3, 3, seed=3)
    assert len(loader.widest(7, 7).tokens_T) == 12
