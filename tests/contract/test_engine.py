"""The laws every engine keeps, whatever its machinery; each runs for every implementation in ENGINES."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import BASE_SLOT, AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.data.prepared.batches import Loader
from ftcluster.data.prepared.documents import Document, Documents
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.errors import BadAdapter, ModelError
from ftcluster.models.base import load_base

ENGINES: dict[str, Callable[[Path, torch.dtype], LocalEngine | PackedEngine]] = {
    "local": lambda folder, dtype: LocalEngine(lambda: load_base(folder, dtype=dtype), Precision(dtype)),
    "packed": lambda folder, dtype: PackedEngine(lambda: load_base(folder, dtype=dtype), Precision(dtype)),
    "packed-fast": lambda folder, dtype: PackedEngine(
        lambda: load_base(folder, dtype=dtype), Precision(dtype), exact=False
    ),
    "local-checkpointing": lambda folder, dtype: LocalEngine(
        lambda: load_base(folder, dtype=dtype), Precision(dtype), checkpointing=True
    ),
    "packed-checkpointing": lambda folder, dtype: PackedEngine(
        lambda: load_base(folder, dtype=dtype), Precision(dtype), checkpointing=True
    ),
}
LORA = AdapterSettings(rank=4, alpha=8.0)


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest, tiny_qwen2: Path) -> Callable[..., LocalEngine]:
    def build(dtype: torch.dtype = torch.float64, folder: Path = tiny_qwen2) -> LocalEngine:
        torch.set_num_threads(1)
        return ENGINES[request.param](folder, dtype)

    return build


def opening(slot: int = 0, adapter: AdapterSettings | None = LORA, **changes: object) -> TrialOpening:
    settings = OptimizerSettings(weight_decay=0.05, clip=0.5)
    return TrialOpening(slot=slot, seed=int(changes.get("seed", 3)), optimizer=settings, adapter=adapter)


def documents(seed: int, count: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random (tokens, weights) of lengths 1 to 12; weights are of the next token, the last one 0."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for length in torch.randint(1, 13, (count,), generator=draw).tolist():
        weights = (torch.rand(length, generator=draw) < 0.7).float()
        weights[-1] = 0
        made.append((torch.randint(3, 300, (length,), generator=draw), weights))
    return made


def batch_of(rows: list[tuple[torch.Tensor, torch.Tensor]], slots: list[int] | None = None) -> Batch:
    tokens = [t for t, _ in rows]
    return Batch(
        torch.cat(tokens),
        torch.cat([torch.cat([t[1:], t[:1]]) for t in tokens]),
        torch.cat([w for _, w in rows]),
        torch.cat([torch.arange(len(t)) for t in tokens]),
        tuple(len(t) for t in tokens),
        tuple(slots or [0] * len(rows)),
    )


def train(engine: LocalEngine, slot: int, steps: range, split: int = 1, lr: float = 1e-2) -> list[float]:
    """Train on batch ``seed=step`` for each step, cut into ``split`` micro-batches."""
    losses = []
    for step in steps:
        rows = documents(step)
        whole = batch_of(rows, [slot] * len(rows))
        normaliser = {slot: whole.weight(slot)}
        size = -(-len(rows) // split)
        total = 0.0
        for micro, start in enumerate(range(0, len(rows), size)):
            part = rows[start : start + size]
            sums = engine.forward_backward(batch_of(part, [slot] * len(part)), normaliser, {slot: (step, micro)})
            total += sums[slot].loss
        engine.step(slot, lr)
        losses.append(total / normaliser[slot])
    return losses


def weights_of(engine: LocalEngine, slot: int, folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    folder.mkdir()
    engine.export(slot, folder)
    return load_file(next(folder.glob("*.safetensors")))


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), f"{name}: {(tensor - other[name]).abs().max()}"


def trains_whole_models(engine: LocalEngine | PackedEngine) -> LocalEngine:
    """The engine, if full fine-tunes are its business."""
    if isinstance(engine, PackedEngine):
        with pytest.raises(ValueError, match="a full fine-tune changes the base that packed trials share"):
            engine.open(opening(adapter=None))
        pytest.skip("packs share a frozen base; full fine-tunes run on the local engine")
    return engine


def peft_reference(
    folder: Path, steps: range, seed: int, adapter: AdapterSettings | None, lr: float
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training written with padded batches, PEFT, torch AdamW and clip_grad_norm_ only."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa")
    if adapter:
        torch.manual_seed(seed)
        config = LoraConfig(
            r=adapter.rank, lora_alpha=adapter.alpha, target_modules="all-linear", use_rslora=adapter.rslora
        )
        model = get_peft_model(model, config, autocast_adapter_dtype=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.05)
    losses = []
    for step in steps:
        rows = documents(step)
        width = max(len(t) for t, _ in rows)
        tokens = torch.stack([torch.nn.functional.pad(t, (0, width - len(t))) for t, _ in rows])
        mask = torch.stack([(torch.arange(width) < len(t)).long() for t, _ in rows])
        weights = torch.stack([torch.nn.functional.pad(w, (0, width - len(w))) for _, w in rows]).double()
        logits = model(input_ids=tokens, attention_mask=mask).logits
        each = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        ).view(len(rows), -1)
        loss = (each * weights[:, :-1]).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("rslora", [False, True])
def test_a_lora_trial_equals_peft_with_torch_adamw_and_clipping(make, tiny_qwen2, tmp_path, rslora) -> None:
    adapter = AdapterSettings(rank=4, alpha=8.0, rslora=rslora)
    engine = make()
    engine.open(opening(adapter=adapter))
    losses = train(engine, 0, range(30))
    expected, tensors = peft_reference(tiny_qwen2, range(30), 3, adapter, 1e-2)
    assert losses == pytest.approx(expected, abs=1e-12)
    for name, tensor in weights_of(engine, 0, tmp_path / "a").items():
        part = name.replace(".weight", ".default.weight")
        assert (tensor - tensors[part]).abs().max() < 1e-11, name


def test_a_full_fine_tune_equals_plain_transformers_with_torch_adamw(make, tiny_qwen2) -> None:
    engine = trains_whole_models(make())
    engine.open(opening(adapter=None))
    losses = train(engine, 0, range(20), lr=1e-3)
    expected, _ = peft_reference(tiny_qwen2, range(20), 3, None, 1e-3)
    assert losses == pytest.approx(expected, abs=1e-11)


def test_accumulation_equals_one_large_batch(make, tmp_path) -> None:
    results = []
    for split in (1, 2, 5):
        engine = make()
        engine.open(opening())
        losses = train(engine, 0, range(5), split=split)
        results.append((losses, weights_of(engine, 0, tmp_path / str(split))))
    for losses, tensors in results[1:]:
        assert losses == pytest.approx(results[0][0], abs=1e-12)
        for name, tensor in tensors.items():
            assert (tensor - results[0][1][name]).abs().max() < 1e-11


def test_packing_changes_neither_loss_nor_gradient(make, tmp_path) -> None:
    """Documents alone, all in one stream, and filled by best fit, among them full ones and some of one token."""
    draw = np.random.default_rng(5)
    sizes = [12, 1, 12, 7, 5, 3, 9, 1, 2, 11, 4, 8, 6, 1, 10, 12]
    rows = Documents.of([Document(draw.integers(3, 300, n).astype(np.int32), draw.random(n) < 0.7) for n in sizes])
    loaders = [
        Loader(rows, 8, 1, seed=3),
        Loader(rows, 8, 8, seed=3),
        Loader(rows, 8, 1, seed=3, micro_tokens=12),
        Loader(rows, 8, 1, seed=3, micro_tokens=29),
    ]
    results = []
    for number, loader in enumerate(loaders):
        engine = make()
        engine.open(opening())
        curve = []
        for step in range(2 * loader.steps_per_epoch):
            batches = loader.step_batches(step)
            normaliser = {0: sum(batch.weight(0) for batch in batches)}
            sums = [engine.forward_backward(b, normaliser, {0: (step, n)})[0].loss for n, b in enumerate(batches)]
            curve += [sum(sums) / normaliser[0], engine.step(0, 1e-2)]
        results.append((curve, weights_of(engine, 0, tmp_path / str(number))))
    for curve, tensors in results[1:]:
        assert curve == pytest.approx(results[0][0], rel=1e-12)  # losses and gradient norms
        for name, tensor in tensors.items():
            assert (tensor - results[0][1][name]).abs().max() < 1e-12


def test_rows_of_weight_zero_are_no_ops(make, tmp_path) -> None:
    plain, padded = make(), make()
    for engine in (plain, padded):
        engine.open(opening())
    rows = documents(1)
    silent = [(torch.arange(5, 11), torch.zeros(6))]
    for engine, extra in ((plain, []), (padded, silent)):
        whole = batch_of(rows + extra)
        engine.forward_backward(whole, {0: whole.weight(0)}, {0: (0, 0)})
        engine.step(0, 1e-2)
    for name, tensor in weights_of(plain, 0, tmp_path / "a").items():
        assert (tensor - weights_of(padded, 0, tmp_path / f"b-{name}")[name]).abs().max() < 1e-12


@pytest.mark.parametrize("adapter", [AdapterSettings(rank=4, alpha=8.0, dropout=0.3), None], ids=["lora", "full"])
def test_a_pass_that_is_tried_out_between_steps_changes_no_bit(make, tmp_path, adapter) -> None:
    plain, trying = make(torch.float32), make(torch.float32)
    if adapter is None:
        trains_whole_models(plain)
    for engine in (plain, trying):
        engine.open(opening(0, adapter))
    losses: dict[int, list[float]] = {0: [], 1: []}
    for step in range(3):
        trying.try_out(batch_of(documents(70 + step, count=8)))
        for number, engine in enumerate((plain, trying)):
            losses[number] += train(engine, 0, range(step, step + 1), split=2, lr=1e-3)
    assert losses[0] == losses[1]
    assert_equal(weights_of(plain, 0, tmp_path / "a"), weights_of(trying, 0, tmp_path / "b"))


def test_a_whole_micro_batch_of_weight_zero_before_a_step_changes_no_bit(make, tmp_path) -> None:
    plain, padded = make(torch.float32), make(torch.float32)
    for engine in (plain, padded):
        engine.open(opening())
    for step in range(2):
        padded.forward_backward(batch_of([(torch.arange(5, 11), torch.zeros(6))] * 3), {0: 1.0}, {0: (step, 9)})
        for engine in (plain, padded):
            train(engine, 0, range(step, step + 1))
    assert_equal(weights_of(plain, 0, tmp_path / "a"), weights_of(padded, 0, tmp_path / "b"))


def test_a_batch_without_any_trained_token_gives_no_gradient(make) -> None:
    engine = make()
    engine.open(opening())
    sums = engine.forward_backward(batch_of([(torch.arange(5, 9), torch.zeros(4))]), {0: 1.0}, {0: (0, 0)})
    assert sums[0].weight == 0
    assert engine.step(0, 1e-2) == 0


def test_twin_trials_agree_bit_for_bit_and_may_share_batches(make, tmp_path) -> None:
    engine = make(torch.float32)
    engine.open(opening(0))
    engine.open(opening(1))
    rows = documents(1)
    both = batch_of(rows + rows, [0] * len(rows) + [1] * len(rows))
    for step in range(3):
        engine.forward_backward(both, {0: both.weight(0), 1: both.weight(1)}, {0: (step, 0), 1: (step, 0)})
        for slot in (0, 1):
            engine.step(slot, 1e-2)
    assert_equal(weights_of(engine, 0, tmp_path / "a"), weights_of(engine, 1, tmp_path / "b"))


def test_companions_and_closing_one_leave_the_others_unchanged(make, tmp_path) -> None:
    alone, shared = make(torch.float32), make(torch.float32)
    dropping = AdapterSettings(rank=4, alpha=8.0, dropout=0.2, targets=("q_proj", "down_proj"))
    alone.open(opening(0, dropping))
    train(alone, 0, range(6))
    shared.open(opening(1, AdapterSettings(rank=2, alpha=4.0)))
    shared.open(opening(0, dropping))
    for step in range(6):
        train(shared, 0, range(step, step + 1))
        if step < 3:
            train(shared, 1, range(step + 50, step + 51))
        elif step == 3:
            shared.close(1)
    assert_equal(weights_of(alone, 0, tmp_path / "a"), weights_of(shared, 0, tmp_path / "b"))


def test_a_closed_slot_can_be_taken_again_and_starts_fresh(make, tmp_path) -> None:
    engine = make(torch.float32)
    engine.open(opening())
    train(engine, 0, range(3))
    first = weights_of(engine, 0, tmp_path / "a")
    engine.close(0)
    engine.open(opening())
    train(engine, 0, range(3))
    assert_equal(first, weights_of(engine, 0, tmp_path / "b"))


@pytest.mark.parametrize("adapter", [AdapterSettings(rank=4, alpha=8.0, dropout=0.3), None], ids=["lora", "full"])
def test_resume_equals_uninterrupted_bit_for_bit_in_any_slot(make, tmp_path, adapter) -> None:
    whole = make(torch.float32)
    if adapter is None:
        trains_whole_models(whole)
    whole.open(opening(0, adapter))
    expected = train(whole, 0, range(8), lr=1e-3)
    first = make(torch.float32)
    first.open(opening(0, adapter))
    losses = train(first, 0, range(4), lr=1e-3)
    saved = tmp_path / "saved"
    saved.mkdir()
    first.save(0, saved)
    second = make(torch.float32)
    second.open(opening(2, adapter))
    second.load(2, saved)
    losses += train(second, 2, range(4, 8), lr=1e-3)
    assert losses == expected
    assert_equal(weights_of(whole, 0, tmp_path / "a"), weights_of(second, 2, tmp_path / "b"))


def test_a_trial_moves_to_any_engine_and_back(tiny_qwen2: Path, tmp_path: Path) -> None:
    """Three steps on each, among others and in another slot every time, as if it had never moved (fp64)."""
    torch.set_num_threads(1)
    engines = [make(tiny_qwen2, torch.float64) for make in ENGINES.values()]
    stay = ENGINES["packed"](tiny_qwen2, torch.float64)
    stay.open(opening(0))
    train(stay, 0, range(3 * (len(engines) + 1)))
    before: Path | None = None
    for number, engine in enumerate([*engines, engines[0]]):
        slot = 3 * number + 1
        engine.open(opening(slot - 1, AdapterSettings(rank=9, alpha=1.0), seed=number))
        engine.open(opening(slot, seed=100 + number))  # what it draws first is replaced by what is loaded
        if before:
            engine.load(slot, before)
        else:
            engine.close(slot)
            engine.open(opening(slot))
        train(engine, slot - 1, range(2))
        train(engine, slot, range(3 * number, 3 * number + 3))
        before = tmp_path / f"state{number}"
        before.mkdir()
        engine.save(slot, before)
    assert before is not None
    from safetensors.torch import load_file

    moved, stayed = load_file(before / "adapter_model.safetensors"), weights_of(stay, 0, tmp_path / "stayed")
    assert moved.keys() == stayed.keys()
    for name, tensor in moved.items():
        assert (tensor - stayed[name]).abs().max() < 1e-12, name


def test_different_seeds_give_different_adapters(make, tmp_path) -> None:
    engine = make(torch.float32)
    for slot in (0, 1):
        engine.open(opening(slot, seed=slot))
        train(engine, slot, range(1))
    one, two = weights_of(engine, 0, tmp_path / "a"), weights_of(engine, 1, tmp_path / "b")
    assert any(not torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_evaluation_is_per_document_without_dropout_and_trains_nothing(make) -> None:
    engine = make()
    engine.open(opening(adapter=AdapterSettings(rank=4, alpha=8.0, dropout=0.5)))
    rows = documents(2)
    together = engine.evaluate(batch_of(rows))
    for sums, row in zip(together, rows, strict=True):
        (alone,) = engine.evaluate(batch_of([row]))
        assert sums.loss == pytest.approx(alone.loss, abs=1e-12)
        assert (sums.weight, sums.tokens) == (alone.weight, len(row[0]))
    assert engine.step(0, 1e-2) == 0


def test_an_untrained_adapter_evaluates_like_the_base(make) -> None:
    engine = make()
    engine.open(opening())
    rows = documents(2)
    base = engine.evaluate(batch_of(rows, [BASE_SLOT] * len(rows)))
    assert [s.loss for s in base] == pytest.approx([s.loss for s in engine.evaluate(batch_of(rows))], abs=1e-12)


def test_adapters_load_in_plain_peft_and_answer_the_same(make, tiny_qwen2, tmp_path) -> None:
    engine = make()
    engine.open(opening())
    train(engine, 0, range(5))
    weights_of(engine, 0, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_qwen2, dtype=torch.float64)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter", autocast_adapter_dtype=False)
    tokens, weights = documents(9, count=1)[0]
    with torch.no_grad():
        logits = model(tokens[None]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="none") * weights[:-1]
    (sums,) = engine.evaluate(batch_of([(tokens, weights)]))
    assert sums.loss == pytest.approx(expected.sum().item(), abs=1e-10)


def test_an_unknown_target_is_refused_with_the_layers_the_model_has(make) -> None:
    with pytest.raises(ModelError, match=r"no linear layer called q_prj; did you mean q_proj\?.*\n.*k_proj"):
        make().open(opening(adapter=AdapterSettings(rank=2, alpha=2, targets=("q_prj",))))


def test_an_adapter_that_never_moved_is_refused_at_saving(make, tmp_path) -> None:
    engine = make()
    engine.open(opening())
    with pytest.raises(BadAdapter, match="has not moved from zero"):
        engine.export(0, tmp_path)


def test_llama_models_train_too(make, tiny_llama) -> None:
    engine = make(folder=tiny_llama)
    engine.open(opening())
    expected, _ = peft_reference(tiny_llama, range(5), 3, LORA, 1e-2)
    assert train(engine, 0, range(5)) == pytest.approx(expected, abs=1e-12)


def test_answers_do_not_depend_on_their_neighbours_or_their_order(make) -> None:
    engine = make()
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [20]]
    together = engine.generate(BASE_SLOT, prompts, 6)
    assert together == [engine.generate(BASE_SLOT, [p], 6)[0] for p in prompts]
    assert engine.generate(BASE_SLOT, prompts[::-1], 6) == together[::-1]


def test_lora_plus_gives_b_a_rate_of_its_own(make, tmp_path) -> None:
    moved = []
    for plus in (1.0, 4.0):
        engine = make()
        engine.open(TrialOpening(0, 3, OptimizerSettings(eps=1e-15, clip=0.0, lora_plus=plus), LORA))
        train(engine, 0, range(1))
        moved.append(weights_of(engine, 0, tmp_path / str(plus)))
    for name, tensor in moved[0].items():  # B starts at zero and the first step is the rate, whatever the gradient
        expected = 4 * tensor if "lora_B" in name else tensor
        assert (moved[1][name] - expected).abs().max() < 1e-9, name
