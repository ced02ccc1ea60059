"""Memory runs out in a pass: alone, beside others, and in a pass that several share. Refusals are torch's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_samples import World

from ftcluster.config.compose import compose, to_dict
from ftcluster.contracts.batch import Batch
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.packed.layer import _Adapted
from ftcluster.errors import TrialError, UsageError
from ftcluster.tracking.records import SPOOL, read_lines
from ftcluster.training.bench import prepare_data
from ftcluster.training.host import HostWorker
from ftcluster.training.worker import Job, Worker

RANKS = (2, 3, 8)
Pass = Callable[..., Any]


def job(world: World, folder: Path, *words: str, until: int | None = 6) -> Job:
    config = compose(world.words("optim.lr=1e-3", f"home={world.folder / 'home'}", *words))
    return Job(to_dict(config), str(folder), str(prepare_data(config).folder), until, {})


def alone(made: Job) -> bytes:
    outcome = Worker(1, gpus=False).run(made)
    assert outcome.error is None
    return weights(made)


def weights(made: Job) -> bytes:
    return (Path(made.folder) / "adapter" / "adapter_model.safetensors").read_bytes()


def tags(made: Job) -> dict[str, str]:
    lines = read_lines(Path(made.folder) / SPOOL)
    return {k: v for line in lines if line.record["kind"] == "tags" for k, v in line.record["values"].items()}


def ask_for_too_much() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def small_passes(monkeypatch: pytest.MonkeyPatch, fits: Callable[[Batch], bool]) -> None:
    """Of the packed engine, only those have memory."""
    original: Pass = PackedEngine.forward_backward

    def forward_backward(engine: PackedEngine, batch: Batch, *more: Any) -> Any:
        if not fits(batch):
            ask_for_too_much()
        return original(engine, batch, *more)

    monkeypatch.setattr(PackedEngine, "forward_backward", forward_backward)


@pytest.mark.slow
def test_a_run_goes_on_with_what_fits_and_so_does_whoever_resumes_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(job(world, tmp_path / "twin", "optim.micro_batch=1", until=12))
    with monkeypatch.context() as patch:
        small_passes(patch, lambda batch: len(batch.lengths) == 1)
        made = job(world, tmp_path / "run", "optim.micro_batch=4")
        outcome = Worker(1, gpus=False).run(made)
        assert outcome.error is None
        assert [text.partition(";")[0] for text in outcome.warnings] == [
            "out of memory with optim.micro_batch=4",
            "out of memory with optim.micro_batch=2",
        ]
        assert tags(made)["ftcluster.micro_batch"] == "optim.micro_batch=1"
        again = Worker(1, gpus=False).run(replace(made, until=12))
        assert (again.error, again.warnings) == (None, ())
    assert weights(made) == expected


def test_a_run_that_fits_in_no_way_ends_with_a_value(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_passes(monkeypatch, lambda _: False)
    worker = Worker(1, gpus=False)
    outcome = worker.run(job(world, tmp_path / "run", "optim.batch_size=8", "optim.micro_batch=8"))
    assert type(outcome.error) is TrialError
    assert outcome.error.message.startswith("out of memory with optim.micro_batch=2, after halving it 2 times: ")
    assert "ftcluster plan" in outcome.error.remedy
    monkeypatch.undo()
    assert worker.run(job(world, tmp_path / "other", until=1)).report is not None  # nothing is left open


@pytest.mark.slow
def test_one_that_does_not_fit_beside_others_is_halved_alone(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(world, tmp_path / f"{rank}", f"adapter.rank={rank}") for rank in RANKS]
    large = job(world, tmp_path / "large", "adapter.rank=4", "optim.batch_size=8", "optim.micro_batch=8")
    expected = [alone(replace(made, folder=f"{made.folder}-alone")) for made in jobs]
    small_passes(monkeypatch, lambda batch: max(batch.slots.count(slot) for slot in batch.slots) <= 4)
    host = HostWorker(1, gpus=False)
    with ThreadPoolExecutor(4) as callers:
        outcomes = list(callers.map(host.run, [*jobs, large]))
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert [len(outcome.warnings) for outcome in outcomes] == [0, 0, 0, 1]
    assert [weights(made) for made in jobs] == expected
    assert json.loads((tmp_path / "large" / "memory.json").read_text())["micro_batch"] == 4


@pytest.mark.slow
def test_a_shared_pass_that_fails_half_way_is_undone_and_nobody_is_changed_by_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a backward pass, when some gradients of some trials are added up already."""
    jobs = [job(world, tmp_path / f"{rank}", f"adapter.rank={rank}") for rank in RANKS]
    expected = [alone(replace(made, folder=f"{made.folder}-alone")) for made in jobs]
    original: Pass = _Adapted.backward
    shared: list[int] = []

    def backward(context: Any, *gradients: Any) -> Any:
        if context.now.trials > 1:
            shared.append(context.now.tokens)
            if len(shared) == 9:
                ask_for_too_much()
        return original(context, *gradients)

    monkeypatch.setattr(_Adapted, "backward", staticmethod(backward))
    host = HostWorker(1, gpus=False)
    with ThreadPoolExecutor(3) as callers:
        outcomes = list(callers.map(host.run, jobs))
    assert len(shared) == 9, "passes are half as large from then on, which holds one of these trials"
    assert [(outcome.error, outcome.warnings) for outcome in outcomes] == [(None, ())] * 3
    assert [weights(made) for made in jobs] == expected


@pytest.mark.slow  # the advice rehearses two more ways
def test_what_can_not_fit_is_refused_before_it_starts(world: World, tmp_path: Path) -> None:
    made = job(world, tmp_path / "run", "cluster.memory_gib=0.0001", "optim.micro_batch=4")
    outcome = Worker(1, gpus=False).run(made)
    assert isinstance(outcome.error, UsageError)
    assert str(outcome.error).startswith("cluster.memory_gib: it would take ")
    assert "and there is 104.9 KiB" in outcome.error.message
    assert not (tmp_path / "run" / "facts.json").exists()


def test_what_is_foretold_is_recorded_where_memory_is_limited(world: World, tmp_path: Path) -> None:
    made = job(world, tmp_path / "run", "cluster.memory_gib=4", until=1)
    assert Worker(1, gpus=False).run(made).error is None
    record = json.loads((tmp_path / "run" / "memory.json").read_text())
    assert (record["engine"], record["device"], record["precision"]) == ("packed", "cpu", "fp32")
    assert tags(made)["ftcluster.memory_predicted_bytes"] == str(record["predicted"])
    assert 10**5 < record["predicted"] < 10**7
    assert record["measured"] == 0, "a process grows by more than such a model takes, whatever it does"
