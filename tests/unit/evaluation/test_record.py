"""Test records of real tiny models: what they hold, when they are kept, when they are made anew."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ftcluster.config.schema import EngineConfig, ModelConfig
from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.ports import BASE_SLOT, AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.data.prepared.batches import collate
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.data.prepared.prepare import DataSettings, prepare
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.precision import Precision
from ftcluster.errors import BadAdapter, StoreError
from ftcluster.evaluation import record as record_module
from ftcluster.evaluation.record import TestLimits, base_record, from_json, record_of, test_rows
from ftcluster.evaluation.subject import SharedBase
from ftcluster.models.base import load_base
from ftcluster.models.tokenizer import load_tokenizer

LIMITS = TestLimits(rows=12, answers=3, max_new_tokens=4)
FP64 = EngineConfig(device="cpu", precision="fp64")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path) -> PreparedData:
    folder = tmp_path_factory.mktemp("data")
    rows = [{"prompt": f"城市 {i}: fox?", "completion": f"dog {i}"} for i in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = DataSettings(train=(str(folder / "rows.jsonl"),), validation_fraction=0.2, test_fraction=0.4)
    return prepare(settings, load_tokenizer(tiny_qwen2), "tiny", folder / "prepared")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path, prepared: PreparedData) -> RunFolder:
    """A run's folder with an adapter that a few steps moved far enough to be told from its base."""
    run = RunFolder(tmp_path_factory.mktemp("run"))
    run.adapter.mkdir()
    engine = _trained(tiny_qwen2, prepared, AdapterSettings(rank=4, alpha=8.0))
    engine.export(0, run.adapter)
    return run


def _trained(model: Path, prepared: PreparedData, adapter: AdapterSettings | None) -> LocalEngine:
    engine = LocalEngine(lambda: load_base(model, dtype=torch.float64), Precision(torch.float64))
    engine.open(TrialOpening(0, 3, OptimizerSettings(), adapter))
    batch = collate([prepared.train.get(row) for row in range(4)], [0] * 4)
    for step in range(5):
        engine.forward_backward(batch, {0: batch.weight(0)}, {0: (step, 0)})
        engine.step(0, 1e-2)
    return engine


@pytest.fixture
def base(tiny_qwen2: Path) -> SharedBase:
    return SharedBase(ModelConfig(path=str(tiny_qwen2)), FP64)


def test_losses_of_an_adapter_are_those_that_peft_computes(
    base: SharedBase, finished: RunFolder, prepared: PreparedData, tiny_qwen2: Path
) -> None:
    found = record_of(finished, base, prepared, name="trial", limits=LIMITS)
    plain = AutoModelForCausalLM.from_pretrained(tiny_qwen2, dtype=torch.float64)
    tuned = PeftModel.from_pretrained(plain, str(finished.adapter)).eval()
    for row, loss, weight in zip(test_rows(len(prepared.test), 12), found.losses, found.weights, strict=True):
        tokens, trained = (torch.from_numpy(array.copy()) for array in prepared.test.get(row))
        with torch.no_grad():
            logits = tuned(input_ids=tokens.long().unsqueeze(0)).logits[0]
        each = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:].long(), reduction="none")
        assert loss == pytest.approx(float(each[trained[1:]].sum()), rel=1e-9)
        assert weight == int(trained[1:].sum())


def test_answers_are_written_for_the_first_of_the_drawn_rows_and_all_rows_are_named(
    base: SharedBase, prepared: PreparedData
) -> None:
    found = base_record(base, prepared, limits=LIMITS)
    assert (len(found.losses), len(found.prompts), len(found.references)) == (12, 12, 12)
    assert (len(found.answers), len(found.finished)) == (3, 3)
    number = found.prompts[0].removeprefix("城市 ").removesuffix(": fox?")
    assert found.references[0] == f"dog {number}"
    assert math.isfinite(found.loss)


def test_rows_with_a_prompt_too_long_to_ask_are_measured_and_the_others_are_answered(
    base: SharedBase, tiny_qwen2: Path, tmp_path: Path
) -> None:
    rows = [{"question": f"q{n} " + "fox " * (60 if n % 2 else 1), "answer": f"dog {n}"} for n in range(80)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = DataSettings((str(file),), test_fraction=0.4, max_length=100, too_long="truncate_left")
    data = prepare(settings, load_tokenizer(tiny_qwen2), "tiny", tmp_path / "store")
    found = base_record(base, data, limits=TestLimits(rows=500, answers=500, max_new_tokens=2))
    assert len(found.losses) == len(data.test)
    assert 0 < len(found.answers) < len(found.losses)
    asked = list(zip(found.prompts, found.references, strict=True))[: len(found.answers)]
    assert all(f"q{reference.split()[1]} fox " == prompt for prompt, reference in asked)
    assert not any(found.prompts[len(found.answers) :])


def test_base_and_adapter_are_tested_on_the_same_rows_and_differ(
    base: SharedBase, finished: RunFolder, prepared: PreparedData
) -> None:
    tuned, bare = (
        record_of(finished, base, prepared, name="trial", limits=LIMITS),
        base_record(base, prepared, limits=LIMITS),
    )
    assert (tuned.data, tuned.prompts, tuned.weights) == (bare.data, bare.prompts, bare.weights)
    assert tuned.loss < bare.loss


def test_asking_the_base_after_an_adapter_gives_the_bare_base(
    base: SharedBase, finished: RunFolder, prepared: PreparedData, tiny_qwen2: Path
) -> None:
    with base.result(finished):
        pass
    after = record_module.measure(base.base(), prepared, name="base", limits=LIMITS)
    fresh = SharedBase(ModelConfig(path=str(tiny_qwen2)), FP64)
    assert after == record_module.measure(fresh.base(), prepared, name="base", limits=LIMITS)


def test_a_full_fine_tune_is_tested_as_the_model_it_left(
    base: SharedBase, prepared: PreparedData, tiny_qwen2: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "full")
    run.model.mkdir(parents=True)
    engine = _trained(tiny_qwen2, prepared, None)
    engine.export(0, run.model)
    base.base().tokenizer.save_pretrained(run.model)
    found = record_of(run, base, prepared, name="full", limits=LIMITS)
    rows = test_rows(len(prepared.test), 12)
    direct = engine.evaluate(collate([prepared.test.get(row) for row in rows], [0] * 12))
    assert found.losses == pytest.approx([sums.loss for sums in direct], rel=1e-9)


def test_the_stored_record_reads_back_exactly(base: SharedBase, finished: RunFolder, prepared: PreparedData) -> None:
    made = record_of(finished, base, prepared, name="trial", limits=LIMITS)
    assert record_of(finished, base, prepared, name="trial", limits=LIMITS) == made
    awkward = TestRecord(
        "a", "d", (0.1 + 0.2, 1e-308), (1.0, 3.0), ("\u2028引号“”\n",) * 2, ("",) * 2, ("😀",), (False,)
    )
    assert from_json(json.loads(json.dumps(asdict(awkward), ensure_ascii=False))) == awkward


def test_a_stored_record_is_used_instead_of_the_model(
    base: SharedBase, finished: RunFolder, prepared: PreparedData
) -> None:
    record_of(finished, base, prepared, name="trial", limits=LIMITS)
    stored = json.loads(finished.test.read_text(encoding="utf-8"))
    stored["record"]["answers"][0] = "written by hand"
    finished.test.write_text(json.dumps(stored))
    assert record_of(finished, base, prepared, name="trial", limits=LIMITS).answers[0] == "written by hand"
    more = TestLimits(rows=13, answers=3, max_new_tokens=4)
    assert record_of(finished, base, prepared, name="trial", limits=more).answers[0] != "written by hand"


def test_an_unreadable_record_is_computed_again(base: SharedBase, finished: RunFolder, prepared: PreparedData) -> None:
    made = record_of(finished, base, prepared, name="trial", limits=LIMITS)
    finished.test.write_text('{"key": ')
    assert record_of(finished, base, prepared, name="trial", limits=LIMITS) == made


def test_the_bases_record_lies_beside_the_prepared_data_under_its_revision(
    base: SharedBase, prepared: PreparedData
) -> None:
    base_record(base, prepared, limits=LIMITS)
    (stored,) = prepared.folder.parent.glob("*.base-*.json")
    assert stored.name == f"{prepared.folder.name}.base-{base.revision[:16]}.json"


def test_a_smaller_cap_takes_the_beginning_of_the_same_draw() -> None:
    assert test_rows(100, 10) == test_rows(100, 60)[:10]
    assert sorted(test_rows(100, 500)) == list(range(100))
    assert test_rows(100, 10) != list(range(10))


def test_an_adapter_changed_after_it_was_saved_is_refused(
    base: SharedBase, prepared: PreparedData, tiny_qwen2: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    run.adapter.mkdir()
    _trained(tiny_qwen2, prepared, AdapterSettings(rank=2, alpha=4.0)).export(0, run.adapter)
    other = RunFolder(tmp_path / "other")
    other.adapter.mkdir(parents=True)
    _trained(tiny_qwen2, prepared, AdapterSettings(rank=3, alpha=4.0)).export(0, other.adapter)
    (other.adapter / "adapter_model.safetensors").replace(run.adapter / "adapter_model.safetensors")
    with pytest.raises(BadAdapter, match="recorded was"):
        record_of(run, base, prepared, name="trial", limits=LIMITS)


def test_an_adapter_of_another_base_is_refused_naming_both(
    finished: RunFolder, prepared: PreparedData, tiny_qwen2: Path
) -> None:
    moved = SharedBase(ModelConfig(path=str(tiny_qwen2), revision="main-2027"), FP64)
    with pytest.raises(BadAdapter, match="this base is main-2027"):
        record_of(finished, moved, prepared, name="trial", limits=TestLimits(rows=2, answers=0))


def test_a_run_without_a_result_is_refused(base: SharedBase, prepared: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="left no adapter and no model"):
        record_of(RunFolder(tmp_path), base, prepared, name="trial", limits=LIMITS)


def test_a_saved_adapter_cannot_take_a_slot_that_is_taken(base: SharedBase, finished: RunFolder) -> None:
    engine = base.base().engine
    assert isinstance(engine, LocalEngine)
    with base.result(finished) as subject, pytest.raises(ValueError, match="taken or negative"):
        engine.open_saved(subject.slot, finished.adapter)
    with pytest.raises(ValueError, match="taken or negative"):
        engine.open_saved(BASE_SLOT, finished.adapter)


def test_weights_that_do_not_fit_their_config_leave_the_base_as_it_was(
    base: SharedBase, finished: RunFolder, prepared: PreparedData, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    run.adapter.mkdir()
    for file in finished.adapter.iterdir():
        (run.adapter / file.name).write_bytes(file.read_bytes())
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    (run.adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
    with pytest.raises(StoreError, match="other tensors"):
        record_of(run, base, prepared, name="trial", limits=LIMITS)
    assert record_of(finished, base, prepared, name="again", limits=LIMITS).subject == "again"
