"""A trial joins others on a host where it shares their base and memory is enough, and is told why not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from training_samples import World

from ftcluster.config.compose import compose
from ftcluster.config.schema import RunConfig
from ftcluster.training.admission import Admission, widest
from ftcluster.training.bench import Bench, prepare_data

Trial = tuple[RunConfig, str]
MIB = 2**20


@pytest.fixture
def trial(world: World) -> Callable[..., Trial]:
    def make(*words: str) -> Trial:
        config = compose(world.words("optim.lr=1e-3", f"home={world.folder / 'home'}", *words))
        return config, str(prepare_data(config).folder)

    return make


@pytest.fixture
def bench(trial: Callable[..., Trial]) -> Bench:
    """With a base that trials train on."""
    bench = Bench()
    _ = bench.engine(trial()[0]).base
    return bench


def admission(bench: Bench, free: int = 10**12) -> Admission:
    return Admission(bench, budget=64, free=lambda _device, _limit: free)


def test_one_that_fits_joins(bench: Bench, trial: Callable[..., Trial]) -> None:
    assert admission(bench).objection(trial("adapter.rank=3"), [trial()]) == ""


def test_one_that_does_not_fit_is_told_what_it_needs(bench: Bench, trial: Callable[..., Trial]) -> None:
    problem = admission(bench, free=1000).objection(trial(), [trial()])
    assert problem.startswith("it needs ")
    assert "for its adapter and optimizer" in problem
    assert problem.endswith("tokens, and 1000 B is free")


def test_alone_it_is_always_taken_in(bench: Bench, trial: Callable[..., Trial]) -> None:
    assert admission(bench, free=0).objection(trial(), []) == ""


def test_another_base_or_engine_is_no_company(bench: Bench, trial: Callable[..., Trial]) -> None:
    asked = admission(bench)
    here = [trial()]
    for words in (["engine.precision=fp64"], ["engine.mode=fast"], ["engine.activation_checkpointing=true"]):
        assert asked.objection(trial(*words), here) == "it trains on another base than the trials there"
    local = trial("engine.name=local")
    _ = bench.engine(local[0]).base
    assert asked.objection(local, here) == "its engine trains one trial at a time"


def test_the_widest_pass_of_all_that_are_there_must_fit(bench: Bench, trial: Callable[..., Trial]) -> None:
    """With memory for passes of small micro-batches only, one with large ones keeps others out, and is kept out."""
    small, large = (trial("optim.batch_size=8", f"optim.micro_batch={size}") for size in (1, 8))
    assert widest(*small) < widest(*large)
    engine = bench.engine(small[0])
    needed = _needed(bench, small, [small]), _needed(bench, large, [small])
    assert needed[0] < needed[1] == _needed(bench, small, [large])
    assert torch.device("cpu") == engine.base.device


def _needed(bench: Bench, wanted: Trial, here: list[Trial]) -> int:
    """The least free memory with which it is taken in, to a kilobyte."""
    low, high = 0, 10**9
    while high - low > 1024:
        middle = (low + high) // 2
        low, high = (middle, high) if admission(bench, middle).objection(wanted, here) else (low, middle)
    return high


def test_the_widest_micro_batch_is_of_the_longest_rows(trial: Callable[..., Trial]) -> None:
    from ftcluster.training.bench import opened

    config, prepared = trial("optim.batch_size=4", "optim.micro_batch=2")
    lengths = sorted(opened(prepared).train.lengths.tolist())
    assert widest(config, prepared) == lengths[-1] + lengths[-2]
    filled = trial("optim.batch_size=4", "optim.micro_batch=4", "optim.micro_tokens=70")
    assert widest(*filled) == max(70, lengths[-1])
