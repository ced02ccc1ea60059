"""Held-out loss: per row, in order, weighed by tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.contracts.ports import BASE_SLOT
from ftcluster.data.prepared.documents import Document, Documents
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.precision import Precision
from ftcluster.engine.sharded.engine import ShardedEngine
from ftcluster.evaluation import likelihood
from ftcluster.evaluation.likelihood import document_losses, loss_metrics
from ftcluster.models.base import load_base

LENGTHS = [30, 2, 11, 5, 30, 3, 17]


@pytest.fixture(scope="module")
def engine(tiny_qwen2: Path) -> LocalEngine:
    torch.set_num_threads(1)
    return LocalEngine(lambda: load_base(tiny_qwen2, dtype=torch.float64), Precision(torch.float64))


@pytest.fixture(scope="module")
def documents() -> Documents:
    draw = np.random.default_rng(1)
    return Documents.of([Document(draw.integers(3, 300, n).astype(np.int32), np.arange(n) >= n // 2) for n in LENGTHS])


def by_hand(engine: LocalEngine, documents: Documents, row: int) -> LossSums:
    """Next-token log-likelihood of one row, with plain transformers."""
    tokens, trained = documents.get(row)
    with torch.no_grad():
        log_p = engine.base.model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].log_softmax(-1)
    losses = [-float(log_p[at, tokens[at + 1]]) for at in range(len(tokens) - 1) if trained[at + 1]]
    return LossSums(sum(losses), len(losses), len(tokens))


def test_each_row_has_its_own_loss_in_the_order_asked_for(engine: LocalEngine, documents: Documents) -> None:
    rows = [4, 1, 6, 0]
    found = document_losses(engine, BASE_SLOT, documents, rows)
    for row, sums in zip(rows, found, strict=True):
        expected = by_hand(engine, documents, row)
        assert sums.loss == pytest.approx(expected.loss, abs=1e-10)
        assert (sums.weight, sums.tokens) == (expected.weight, expected.tokens)


def test_how_rows_fall_into_batches_changes_nothing(
    engine: LocalEngine, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = range(len(LENGTHS))
    together = document_losses(engine, BASE_SLOT, documents, rows)
    monkeypatch.setattr(likelihood, "_TOKENS", 31)
    assert [s.loss for s in document_losses(engine, BASE_SLOT, documents, rows)] == pytest.approx(
        [s.loss for s in together], abs=1e-10
    )


def test_no_rows_have_no_losses(engine: LocalEngine, documents: Documents) -> None:
    assert document_losses(engine, BASE_SLOT, documents, []) == []


def test_loss_is_per_token_and_perplexity_its_exponential() -> None:
    metrics = loss_metrics([LossSums(6.0, 3.0, 9), LossSums(6.0, 1.0, 9)])
    assert metrics == {"eval/loss": 3.0, "eval/perplexity": pytest.approx(math.exp(3.0))}


def test_an_enormous_loss_has_a_finite_perplexity() -> None:
    assert math.isfinite(loss_metrics([LossSums(5000.0, 1.0, 1)])["eval/perplexity"])


def test_what_memory_is_not_enough_for_is_evaluated_in_parts(engine: LocalEngine, documents: Documents) -> None:
    passes: list[int] = []

    class Small:
        def evaluate(self, batch: Batch) -> list[LossSums]:
            passes.append(len(batch.tokens_T))
            if passes[-1] > 40:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return engine.evaluate(batch)

    rows = list(range(len(LENGTHS)))
    found = document_losses(cast(Any, Small()), BASE_SLOT, documents, rows)
    assert passes == [98, 10, 88, 28, 60, 30, 30]
    for one, other in zip(found, document_losses(engine, BASE_SLOT, documents, rows), strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-12)
        assert (one.weight, one.tokens) == (other.weight, other.tokens)


def test_one_row_that_does_not_fit_and_other_errors_are_told(documents: Documents) -> None:
    class Failing:
        def __init__(self, error: Exception) -> None:
            self.error, self.passes = error, 0

        def evaluate(self, *_: Batch) -> list[LossSums]:
            self.passes += 1
            raise self.error

    for error, passes in ((MemoryError(), 3), (ValueError("no"), 1)):
        failing = Failing(error)
        with pytest.raises(type(error)):
            document_losses(cast(Any, failing), BASE_SLOT, documents, range(len(LENGTHS)))
        assert failing.passes == passes


def test_a_group_of_ranks_is_not_asked_again(documents: Documents) -> None:
    class Group(ShardedEngine):
        def __init__(self) -> None:
            self.passes = 0

        def evaluate(self, *_: Batch) -> list[LossSums]:
            self.passes += 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    group = Group()
    with pytest.raises(torch.OutOfMemoryError):
        document_losses(group, BASE_SLOT, documents, range(len(LENGTHS)))
    assert group.passes == 1
