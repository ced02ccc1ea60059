"""Packs over a sharded base against the same trials in one process, on a base that is whole: the same bits.

Trials differ in rank, targets, dropout, seed, decay and clip; one comes late, one leaves early; ranks have two trials,
one or none, and now and then no token of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sharded_group import Group, Making, running

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import BASE_SLOT, AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.engine.sharded.ranks import RankLost
from ftcluster.errors import ModelError
from ftcluster.models.base import load_base

pytestmark = pytest.mark.slow

# Tiny weights would all be kept whole; like this every layer is gathered and released.
NOTHING_KEPT = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
ADAPTERS = {
    0: AdapterSettings(rank=4, alpha=8.0, dropout=0.3),
    1: AdapterSettings(rank=12, alpha=3.0, targets=("q_proj", "down_proj")),
    2: AdapterSettings(rank=2, alpha=2.0, dropout=0.1, targets=("v_proj", "o_proj"), rslora=True),
}
COUNTS = {0: (5, 1, 3), 1: (2, 4, 1), 2: (3, 3, 6)}  # documents of a trial's batches, in turns


@pytest.fixture(scope="module")
def two() -> Iterator[Group]:
    yield from running(2)


@pytest.fixture(scope="module")
def four() -> Iterator[Group]:
    yield from running(4)


def _making(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Making:
    return Making(folder, dtype, {"stage": 3}, own=NOTHING_KEPT, packs=True, **options)


def _alone(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> PackedEngine:
    torch.set_num_threads(1)
    return PackedEngine(lambda: load_base(folder, dtype=dtype), Precision(dtype, None), **options)


def _opening(slot: int) -> TrialOpening:
    settings = OptimizerSettings(weight_decay=0.05 * slot, clip=0.5 + slot)
    return TrialOpening(slot, 3 + slot, settings, ADAPTERS[slot])


def _batch(seed: int, count: int, slot: int) -> Batch:
    """Documents of 1 to 12 tokens; a batch of one carries no loss."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (count,), generator=draw).tolist()
    tokens = [torch.randint(3, 300, (length,), generator=draw) for length in lengths]
    weights = torch.cat([(torch.rand(length, generator=draw) < 0.7).float() for length in lengths])
    return Batch(
        torch.cat(tokens),
        torch.cat([token.roll(-1) for token in tokens]),
        weights if count > 1 else torch.zeros_like(weights),
        torch.cat([torch.arange(length) for length in lengths]),
        tuple(lengths),
        (slot,) * count,
    )


def _step(engine: Any, step: int, slots: list[int]) -> dict[int, tuple[float, float]]:
    """One micro-batch and one update of each; losses and gradient norms."""
    batches = {slot: _batch(100 * slot + step, COUNTS[slot][step % 3], slot) for slot in slots}
    normalisers = {slot: max(batch.weight(slot), 1.0) for slot, batch in batches.items()}
    sums = engine.forward_backward(Batch.joined(list(batches.values())), normalisers, dict.fromkeys(slots, (step, 0)))
    norms = engine.step_many(dict.fromkeys(slots, 1e-2))
    return {slot: (sums[slot].loss, norms[slot]) for slot in slots}


STEPS = [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2], [0, 2], [2, 0]]  # trial 2 comes late, 1 leaves early


def _train_together(engine: Any, folder: Path) -> dict[int, list[tuple[float, float]]]:
    """Curves by trial; results are exported."""
    curves: dict[int, list[tuple[float, float]]] = {}
    for step, slots in enumerate(STEPS):
        for slot in slots:
            if slot not in curves:
                engine.open(_opening(slot))
        if 1 in curves and 1 not in slots and step == 4:
            _export(engine, folder, 1)
            engine.close(1)
        for slot, found in _step(engine, step, slots).items():
            curves.setdefault(slot, []).append(found)
    for slot in (0, 2):
        _export(engine, folder, slot)
    return curves


def _train_alone(folder: Path, out: Path, slot: int, **options: Any) -> list[tuple[float, float]]:
    engine = _alone(folder, **options)
    engine.open(_opening(slot))
    curve = [_step(engine, step, [slot])[slot] for step, slots in enumerate(STEPS) if slot in slots]
    _export(engine, out, slot)
    return curve


def _export(engine: Any, folder: Path, slot: int) -> None:
    (folder / str(slot)).mkdir(parents=True)
    engine.export(slot, folder / str(slot))


def _adapter(folder: Path, slot: int) -> dict[str, torch.Tensor]:
    return load_file(folder / str(slot) / "adapter_model.safetensors")


def _assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(values, other[name]) for name, values in one.items())


@pytest.mark.parametrize("ranks", ["two", "four"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_trial_has_the_bits_of_its_run_in_one_process(
    request, tiny_qwen2, tmp_path, ranks, dtype, checkpointing
) -> None:
    group: Group = request.getfixturevalue(ranks)
    engine = group.engine(_making(tiny_qwen2, dtype, checkpointing=checkpointing))
    curves = _train_together(engine, tmp_path / "together")
    for slot in ADAPTERS:
        assert _train_alone(tiny_qwen2, tmp_path / "alone", slot, dtype=dtype) == curves[slot]
        _assert_equal(_adapter(tmp_path / "alone", slot), _adapter(tmp_path / "together", slot))
    group.forget()


def test_a_trial_goes_on_with_another_number_of_ranks_with_the_same_bits(two, tiny_qwen2, tmp_path) -> None:
    """One process, then two ranks (where it is the second one's), then one process."""
    undisturbed, places = _alone(tiny_qwen2), tmp_path / "places"
    undisturbed.open(_opening(2))
    expected = [_step(undisturbed, step, [2])[2] for step in range(6)]
    found = []
    sharded = two.engine(_making(tiny_qwen2))
    sharded.open(_opening(0))
    for number, engine in enumerate((_alone(tiny_qwen2), sharded, _alone(tiny_qwen2))):
        engine.open(_opening(2))
        if number:
            engine.load(2, places / str(number - 1))
        found += [_step(engine, step, [2])[2] for step in (2 * number, 2 * number + 1)]
        (places / str(number)).mkdir(parents=True)
        engine.save(2, places / str(number))
    assert found == expected
    two.forget()


def test_evaluation_and_answers_are_those_of_one_process_whose_ever_the_trial_is(two, tiny_qwen2) -> None:
    alone, sharded = _alone(tiny_qwen2, torch.float64), two.engine(_making(tiny_qwen2, torch.float64))
    for engine in (alone, sharded):
        for slot in (0, 1):
            engine.open(_opening(slot))
        for step in range(3):
            _step(engine, step, [0, 1])
    for slot in (BASE_SLOT, 0, 1):
        batch = _batch(77, 5, slot)
        for one, two_ranks in zip(alone.evaluate(batch), sharded.evaluate(batch), strict=True):
            assert two_ranks.loss == pytest.approx(one.loss, abs=1e-12)
            assert (two_ranks.weight, two_ranks.tokens) == (one.weight, one.tokens)
        prompts = [[5, 9, 20], [7]]
        assert sharded.generate(slot, prompts, 8) == alone.generate(slot, prompts, 8)
    two.forget()


def test_between_passes_no_rank_holds_more_than_its_share_of_the_base(four, tiny_qwen2) -> None:
    engine = four.engine(_making(tiny_qwen2))
    engine.open(_opening(0))
    _step(engine, 0, [0])
    engine.evaluate(_batch(1, 3, 0))
    for here, whole in four.ask("share_of_base", engine.number):
        assert here <= 0.26 * whole
    four.forget()


def test_fast_mode_gives_what_it_gives_in_one_process_within_rounding(two, tiny_qwen2, tmp_path) -> None:
    together = _train_together(two.engine(_making(tiny_qwen2, torch.float64, exact=False)), tmp_path / "together")
    for slot in ADAPTERS:
        alone = _train_alone(tiny_qwen2, tmp_path / "alone", slot, dtype=torch.float64, exact=False)
        for one, other in zip(alone, together[slot], strict=True):
            assert one == pytest.approx(other, abs=1e-10)
        mine, theirs = _adapter(tmp_path / "alone", slot), _adapter(tmp_path / "together", slot)
        assert all((values - theirs[name]).abs().max() < 1e-10 for name, values in mine.items())
    two.forget()


def test_what_a_trial_needs_is_what_the_rank_takes_that_it_would_be_on(two, tiny_qwen2) -> None:
    alone, sharded = _alone(tiny_qwen2), two.engine(_making(tiny_qwen2))
    alone.open(_opening(0))
    sharded.open(_opening(0))
    row = next(iter(alone._packed.banks.values())).row_bytes  # what is lent to the other rank for an evaluation
    assert sharded.cost(ADAPTERS[0]) == row + row, "the second rank has no trial yet"
    passes = sharded.passes(ADAPTERS[1], 12)
    assert passes.per_token > 0
    assert sharded.free(0) > 0
    before = _step(alone, 0, [0])
    assert _step(sharded, 0, [0]) == before, "measuring changes no trial"
    two.forget()


def test_a_pass_of_several_trials_that_fails_is_a_loss_that_each_goes_on_from_alone(tiny_qwen2) -> None:
    for slots, kind in (([0, 1], RankLost), ([0], RuntimeError)):
        group = Group(2)
        try:
            engine = group.engine(_making(tiny_qwen2))
            for slot in (0, 1):
                engine.open(_opening(slot))
            group.ask("break_off", engine.number)
            with pytest.raises(kind, match="it broke"):
                _step(engine, 0, slots)
        finally:
            group.kill()


def test_a_model_that_is_refused_is_refused_again(tiny_qwen2) -> None:
    for group in running(2):
        engine = group.engine(_making(tiny_qwen2))
        group.ask("let_documents_meet")
        for _ in range(2):
            with pytest.raises(ModelError, match="documents of one stream see each other"):
                engine.open(_opening(0))
