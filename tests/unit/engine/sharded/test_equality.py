"""A trial over several processes against the same trial in one: losses, weights, checkpoints.

Batches of 5, 1, 3, 7 documents on 2 or 4 ranks: uneven, some ranks without a document, some without a trained token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sharded_group import Group, Making, running
from transformers import AutoModelForCausalLM

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.precision import Precision
from ftcluster.errors import BadAdapter, UsageError
from ftcluster.models.base import load_base
from ftcluster.models.integrity import check_adapter
from ftcluster.models.tiny import create_tiny_model
from ftcluster.tracking.system import system_metrics

pytestmark = pytest.mark.slow

LORA = AdapterSettings(rank=4, alpha=8.0, dropout=0.3)
# Tiny weights would all be kept whole; like this every layer is gathered and released.
NOTHING_KEPT = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
FULL_FP32 = 3e-6  # losses and weights after 6 steps; measured: 8e-7
COUNTS = (5, 1, 3, 7)


@pytest.fixture(scope="module")
def two() -> Iterator[Group]:
    yield from running(2)


@pytest.fixture(scope="module")
def four() -> Iterator[Group]:
    yield from running(4)


def _opening(adapter: AdapterSettings | None, slot: int = 0) -> TrialOpening:
    return TrialOpening(slot, 3, OptimizerSettings(weight_decay=0.05, clip=0.5), adapter)


def _local(folder: Path, dtype: torch.dtype, adapter: AdapterSettings | None, **options: Any) -> LocalEngine:
    torch.set_num_threads(1)
    precision = Precision(dtype, options.pop("autocast", None))
    engine = LocalEngine(lambda: load_base(folder, dtype=dtype), precision, **options)
    engine.open(_opening(adapter))
    return engine


def _batch(seed: int, count: int, slot: int) -> Batch:
    """Documents of 1 to 12 tokens; the shortest carries no loss."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (count,), generator=draw).tolist()
    tokens = [torch.randint(3, 300, (length,), generator=draw) for length in lengths]
    weights = [(torch.rand(length, generator=draw) < 0.7).float() for length in lengths]
    for weight in weights:
        weight[-1] = 0
    weights[lengths.index(min(lengths))].zero_()
    return Batch(
        torch.cat(tokens),
        torch.cat([token.roll(-1) for token in tokens]),
        torch.cat(weights),
        torch.cat([torch.arange(length) for length in lengths]),
        tuple(lengths),
        (slot,) * count,
    )


def _train(engine: Any, steps: range, slot: int = 0) -> list[float]:
    """Two micro-batches a step, of 5 and 1, 3 and 7, ... documents; losses and gradient norms."""
    curve = []
    for step in steps:
        micros = [_batch(10 * step + i, COUNTS[(2 * step + i) % 4], slot) for i in range(2)]
        normaliser = max(sum(micro.weight(slot) for micro in micros), 1.0)
        sums = [engine.forward_backward(m, {slot: normaliser}, {slot: (step, i)}) for i, m in enumerate(micros)]
        curve += [sum(each[slot].loss for each in sums) / normaliser, engine.step(slot, 1e-3)]
    return curve


def _result(engine: Any, folder: Path, slot: int = 0) -> dict[str, torch.Tensor]:
    folder.mkdir()
    engine.export(slot, folder)
    return load_file(next(folder.glob("*.safetensors")))


def _furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((tensor - other[name]).abs().max().item() for name, tensor in one.items())


def _saved(engine: Any, folder: Path, slot: int = 0) -> Path:
    folder.mkdir()
    engine.save(slot, folder)
    return folder


THOROUGH = pytest.mark.thorough


@pytest.mark.parametrize(
    ("ranks", "stage", "offload"),
    [
        *(("two", stage, "none") for stage in range(4)),
        ("two", 3, "cpu"),
        *(pytest.param("four", stage, "none", marks=[] if stage % 2 else THOROUGH) for stage in range(4)),
        pytest.param("four", 3, "cpu", marks=THOROUGH),
    ],
)
def test_lora_with_dropout_equals_one_process_in_fp64(request, tiny_qwen2, tmp_path, ranks, stage, offload) -> None:
    group = request.getfixturevalue(ranks)
    settings = {"stage": stage, "offload_parameters": offload}
    engine = group.engine(Making(tiny_qwen2, torch.float64, settings, own=NOTHING_KEPT))
    engine.open(_opening(LORA))
    alone = _local(tiny_qwen2, torch.float64, LORA)
    assert _train(engine, range(6)) == pytest.approx(_train(alone, range(6)), abs=1e-12)
    assert _furthest(_result(engine, tmp_path / "a"), _result(alone, tmp_path / "b")) < 1e-12


FULL: dict[str, dict[str, Any]] = {
    "1": {"stage": 1},
    "2": {"stage": 2},
    "3": {"stage": 3},
    "1-offload": {"stage": 1, "offload_optimizer": "cpu"},
    "2-offload": {"stage": 2, "offload_optimizer": "cpu"},
    "3-offload": {"stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
}


@pytest.mark.parametrize("settings", FULL.values(), ids=FULL)
def test_full_fine_tunes_equal_one_process_in_fp32(two, tiny_qwen2, tmp_path, settings) -> None:
    engine = two.engine(Making(tiny_qwen2, settings=settings, own=NOTHING_KEPT))
    engine.open(_opening(None))
    alone = _local(tiny_qwen2, torch.float32, None)
    assert _train(engine, range(6)) == pytest.approx(_train(alone, range(6)), abs=FULL_FP32)
    assert _furthest(_result(engine, tmp_path / "a"), _result(alone, tmp_path / "b")) < FULL_FP32


FOUR = {"0": {"stage": 0}, **FULL, "3-hpz": {"stage": 3, "hpz": 2}}


@pytest.mark.parametrize(
    "settings", [pytest.param(FOUR[name], id=name, marks=THOROUGH if "offload" in name else []) for name in FOUR]
)
def test_four_ranks_train_a_whole_model_as_one_process_does(four, tiny_qwen2, tmp_path, settings) -> None:
    engine = four.engine(Making(tiny_qwen2, settings=settings, own=NOTHING_KEPT))
    engine.open(_opening(None))
    alone = _local(tiny_qwen2, torch.float32, None)
    assert _train(engine, range(6)) == pytest.approx(_train(alone, range(6)), abs=FULL_FP32)
    assert _furthest(_result(engine, tmp_path / "a"), _result(alone, tmp_path / "b")) < FULL_FP32


def test_a_whole_model_at_stage_0_equals_one_process_in_fp64(two, tiny_qwen2, tmp_path) -> None:
    engine = two.engine(Making(tiny_qwen2, torch.float64, {"stage": 0}))
    engine.open(_opening(None))
    alone = _local(tiny_qwen2, torch.float64, None)
    assert _train(engine, range(6)) == pytest.approx(_train(alone, range(6)), abs=1e-12)
    assert _furthest(_result(engine, tmp_path / "a"), _result(alone, tmp_path / "b")) < 1e-12


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_products_are_those_of_one_process(two, tiny_qwen2, stage) -> None:
    """Rounded to 8 bits, sums in another order differ by some of the last one; the curve is the same."""
    making = Making(tiny_qwen2, settings={"stage": stage}, autocast=torch.bfloat16, own=NOTHING_KEPT)
    engine = two.engine(making)
    engine.open(_opening(None))
    alone = _local(tiny_qwen2, torch.float32, None, autocast=torch.bfloat16)
    assert _train(engine, range(4)) == pytest.approx(_train(alone, range(4)), rel=5e-3)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_weights_have_fp32_masters_that_a_checkpoint_keeps(two, tiny_qwen2, tmp_path, stage) -> None:
    making = Making(tiny_qwen2, torch.bfloat16, {"stage": stage}, own=NOTHING_KEPT)
    first = two.engine(making)
    first.open(_opening(None))
    _train(first, range(3))
    saved = _saved(first, tmp_path / "saved")
    masters = load_file(saved / "model.safetensors")
    exported = _result(first, tmp_path / "a")
    assert {tensor.dtype for tensor in masters.values()} == {torch.float32}
    assert all(torch.equal(tensor, masters[name].bfloat16()) for name, tensor in exported.items())
    assert any(not torch.equal(tensor.float(), masters[name]) for name, tensor in exported.items())
    expected = _train(first, range(3, 6))
    second = two.engine(making)
    second.open(_opening(None))
    second.load(0, saved)
    assert _train(second, range(3, 6)) == expected


@pytest.mark.parametrize("adapter", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize("stage", [2, 3])
def test_activation_checkpointing_changes_nothing(two, tiny_qwen2, adapter, stage) -> None:
    curves = []
    for checkpointing in (False, True):
        made = Making(tiny_qwen2, settings={"stage": stage}, checkpointing=checkpointing, own=NOTHING_KEPT)
        engine = two.engine(made)
        engine.open(_opening(adapter))
        curves.append(_train(engine, range(3)))
    assert curves[0] == curves[1]


@pytest.mark.parametrize("settings", FULL.values(), ids=FULL)
def test_a_full_fine_tune_resumes_on_the_same_layout_bit_for_bit(two, tiny_qwen2, tmp_path, settings) -> None:
    making = Making(tiny_qwen2, settings=settings, own=NOTHING_KEPT)
    first = two.engine(making)
    first.open(_opening(None))
    _train(first, range(3))
    saved = _saved(first, tmp_path / "saved")
    expected = _train(first, range(3, 6))
    second = two.engine(making)
    second.open(_opening(None, slot=4))
    second.load(4, saved)
    assert _train(second, range(3, 6), slot=4) == expected
    assert _furthest(_result(first, tmp_path / "a"), _result(second, tmp_path / "b", slot=4)) == 0


def test_a_full_fine_tune_goes_on_with_any_stage_any_number_of_ranks_and_in_one_process(
    two, four, tiny_qwen2, tmp_path
) -> None:
    """Stage 2 on 2 ranks, stage 3 on 4, one process, stage 1 on 2: two steps each."""
    stay = _local(tiny_qwen2, torch.float32, None)
    expected = _train(stay, range(8))
    hosts = [
        lambda: two.engine(Making(tiny_qwen2, settings={"stage": 2})),
        lambda: four.engine(Making(tiny_qwen2, settings={"stage": 3}, own=NOTHING_KEPT)),
        lambda: LocalEngine(lambda: load_base(tiny_qwen2), Precision(torch.float32)),
        lambda: two.engine(Making(tiny_qwen2, settings={"stage": 1, "offload_optimizer": "cpu"})),
    ]
    curve: list[float] = []
    before: Path | None = None
    for number, host in enumerate(hosts):
        engine = host()
        engine.open(_opening(None))
        if before:
            engine.load(0, before)
        curve += _train(engine, range(2 * number, 2 * number + 2))
        before = _saved(engine, tmp_path / str(number))
    assert curve == pytest.approx(expected, abs=FULL_FP32)
    assert before is not None
    assert _furthest(load_file(before / "model.safetensors"), _result(stay, tmp_path / "stay")) < FULL_FP32


def test_a_lora_trial_goes_on_from_two_ranks_at_stage_3_in_one_process_and_back(two, tiny_qwen2, tmp_path) -> None:
    stay = _local(tiny_qwen2, torch.float64, LORA)
    expected = _train(stay, range(6))
    first = two.engine(Making(tiny_qwen2, torch.float64, {"stage": 3}, own=NOTHING_KEPT))
    first.open(_opening(LORA))
    curve = _train(first, range(2))
    alone = _local(tiny_qwen2, torch.float64, LORA)
    alone.load(0, _saved(first, tmp_path / "one"))
    curve += _train(alone, range(2, 4))
    third = two.engine(Making(tiny_qwen2, torch.float64, {"stage": 1}))
    third.open(_opening(LORA))
    third.load(0, _saved(alone, tmp_path / "two"))
    curve += _train(third, range(4, 6))
    assert curve == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_closed_full_fine_tune_leaves_room_for_another_that_starts_fresh(two, tiny_qwen2, stage) -> None:
    engine = two.engine(Making(tiny_qwen2, settings={"stage": stage}, own=NOTHING_KEPT))
    curves = []
    for _ in range(2):
        engine.open(_opening(None))
        curves.append(_train(engine, range(2)))
        engine.close(0)
    assert curves[0] == curves[1]
    with pytest.raises(ValueError, match="slot 0 holds no trial"):
        engine.evaluate(_batch(1, 3, 0))


def test_several_adapters_share_one_sharded_base_and_do_not_meet(two, tiny_qwen2, tmp_path) -> None:
    engine = two.engine(Making(tiny_qwen2, torch.float64, {"stage": 3}, own=NOTHING_KEPT))
    engine.open(_opening(LORA, slot=5))
    engine.open(_opening(LORA, slot=0))
    for step in range(4):
        _train(engine, range(step + 20, step + 21), slot=5)
        _train(engine, range(step, step + 1))
    alone = _local(tiny_qwen2, torch.float64, LORA)
    _train(alone, range(4))
    assert _furthest(_result(engine, tmp_path / "a"), _result(alone, tmp_path / "b")) < 1e-12


@pytest.mark.parametrize("stage", [1, 3])
def test_a_result_is_a_folder_that_transformers_loads_and_evaluates_alike(two, tiny_qwen2, tmp_path, stage) -> None:
    engine = two.engine(Making(tiny_qwen2, settings={"stage": stage}, own=NOTHING_KEPT))
    engine.open(_opening(None))
    _train(engine, range(2))
    _result(engine, tmp_path / "result")
    model, found = AutoModelForCausalLM.from_pretrained(tmp_path / "result", output_loading_info=True)
    assert not found["missing_keys"]
    batch = _batch(4, 5, 0)
    start = 0
    for sums, length in zip(engine.evaluate(batch), batch.lengths, strict=True):
        here = slice(start, start + length)
        logits = model(batch.tokens_T[None, here]).logits[0]
        losses = torch.nn.functional.cross_entropy(logits, batch.targets_T[here], reduction="none")
        assert sums.loss == pytest.approx((losses * batch.weights_T[here]).sum().item(), abs=1e-4)
        start += length
    prompts = [[5, 6, 7], [8, 9, 10, 11], [20]]
    assert engine.generate(0, prompts, 4) == [engine.generate(0, [prompt], 4)[0] for prompt in prompts]


def test_at_stage_3_no_rank_holds_more_than_its_share_between_passes(four, tiny_qwen2) -> None:
    making = Making(tiny_qwen2, settings={"stage": 3}, own=NOTHING_KEPT)
    engine = four.engine(making)
    engine.open(_opening(None))
    _train(engine, range(1))
    for here, whole in four.ask("share_of", engine.number, 0):
        assert whole / 4 <= here < whole / 4 + 100  # shares of parameters are rounded up


def test_a_base_is_read_once_and_whole_on_no_rank_while_it_loads(four, tmp_path) -> None:
    folder = create_tiny_model(tmp_path / "model", ["a b c d"], hidden_size=64, layers=12, vocabulary=300)
    told = four.ask("load", Making(folder))
    tensors = len(load_file(folder / "model.safetensors"))
    assert [reads for *_, reads in told] == [tensors, 0, 0, 0]
    for whole, largest, most, _ in told:
        assert whole / 4 <= most < whole / 4 + 3 * largest < whole / 2


def test_an_adapter_that_was_sharded_and_saved_as_if_whole_is_refused(two, tiny_qwen2, tmp_path) -> None:
    """The empty adapter of ZeRO-3, made on purpose; ours are never sharded."""
    two.ask("save_sharded_adapter", Making(tiny_qwen2, own=NOTHING_KEPT), tmp_path)
    with pytest.raises(BadAdapter, match="has no elements"):
        check_adapter(tmp_path)


def test_what_deepspeed_computes_in_fp32_alone_is_refused_in_fp64(two, tiny_qwen2) -> None:
    engine = two.engine(Making(tiny_qwen2, torch.float64, {"stage": 2}))
    with pytest.raises(UsageError, match=r"(?s)engine.precision=fp64.*masters in fp32.*engine.stage=0"):
        engine.open(_opening(None))


def test_dora_needs_a_whole_base(two, tiny_qwen2) -> None:
    engine = two.engine(Making(tiny_qwen2, settings={"stage": 3}))
    with pytest.raises(UsageError, match="DoRA reads whole weights, which stage 3 shards"):
        engine.open(_opening(AdapterSettings(rank=2, alpha=2, dora=True)))


def test_a_disk_that_takes_no_checkpoint_leaves_the_trial_as_it_was(two, tiny_qwen2, tmp_path) -> None:
    engine = two.engine(Making(tiny_qwen2, settings={"stage": 3}))
    engine.open(_opening(None))
    _train(engine, range(2))
    with pytest.raises(OSError, match="No such file"):
        engine.save(0, tmp_path / "missing")
    alone = _local(tiny_qwen2, torch.float32, None)
    _train(alone, range(2))
    assert _train(engine, range(2, 4)) == pytest.approx(_train(alone, range(2, 4)), abs=FULL_FP32)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_pass_that_is_tried_out_leaves_nothing_in_deepspeeds_gradients(two, tiny_qwen2, tmp_path, stage) -> None:
    results = []
    for number in range(2):
        engine = two.engine(Making(tiny_qwen2, settings={"stage": stage}))
        engine.open(_opening(None))
        if number:
            engine.try_out(_batch(77, 8, 0))
        curve = _train(engine, range(1))
        if number:
            engine.try_out(_batch(78, 8, 0))
        results.append((curve + _train(engine, range(1, 3)), _result(engine, tmp_path / str(number))))
        two.forget()
    assert results[0][0] == results[1][0]
    assert _furthest(results[0][1], results[1][1]) == 0


def test_every_rank_measures_itself(two, tiny_qwen2) -> None:
    engine = two.engine(Making(tiny_qwen2, settings={"stage": 0}))
    first, second = engine.telemetry(system_metrics)
    assert first.keys() == second.keys() == system_metrics().keys()
    assert min(first["system/memory_mb"], second["system/memory_mb"]) > 1
    two.forget()


@pytest.mark.thorough
def test_state_on_a_disk_gives_the_weights_of_state_in_memory(tmp_path) -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        pytest.skip("offload to a disk needs libaio (apt install libaio-dev)")
    AsyncIOBuilder().load(verbose=False)  # compiled once, which takes minutes
    # DeepSpeed leaves in memory what is smaller than a mebibyte.
    texts = [f"{a}{b}{c} {c}{a}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvw"]
    folder = create_tiny_model(tmp_path / "model", texts, hidden_size=192, layers=4, vocabulary=320)
    disk = tmp_path / "disk"
    disk.mkdir()
    results = []
    for settings in (
        {"stage": 3},
        {"stage": 3, "offload_optimizer": "nvme", "nvme": disk},
        {"stage": 3, "offload_optimizer": "nvme", "offload_parameters": "nvme", "nvme": disk},
    ):
        for group in running(2):
            engine = group.engine(Making(folder, settings=settings))
            engine.open(_opening(None))
            _train(engine, range(3))
            folders = {path.relative_to(disk).parts[0] for path in disk.rglob("*.swp")}
            assert bool(folders) is ("nvme" in settings)
            assert len(folders) % 2 == 0, "as many for each rank"
            results.append(_result(engine, tmp_path / f"result{len(results)}"))
    assert _furthest(results[0], results[1]) < FULL_FP32
    assert _furthest(results[0], results[2]) < FULL_FP32
