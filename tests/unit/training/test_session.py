"""A run in its folder: what it leaves there, and that it goes on from there to the same bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from training_samples import STEPS, World, curves, result_bytes
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcluster.config.compose import compose, from_dict
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import TrialReport
from ftcluster.engine.checkpoint import damage, name_of
from ftcluster.errors import BadAdapter, Diverged, StoreError, UsageError
from ftcluster.models.integrity import read_integrity
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.bench import Bench, prepare_data
from ftcluster.training.loop import Progress
from ftcluster.training.session import PROGRESS, Session, best_checkpoint, plan

FULL = ("adapter=none", "optim.lr=1e-3")
Run = Callable[..., TrialReport]


@pytest.fixture
def train_in(world: World, home: Path) -> Run:
    """Train in a folder up to a step, with a bench of its own unless one is given."""

    def run(
        folder: Path,
        *words: str,
        until: int | None = None,
        bench: Bench | None = None,
        model: Path | None = None,
        warn: Callable[[str], None] = pytest.fail,
    ) -> TrialReport:
        config = compose([*world.words(*words), *([f"model.path={model}"] if model else []), f"home={home}"])
        with closing(SpoolTracker(folder)) as tracker:
            session = Session(
                config,
                RunFolder(folder),
                str(prepare_data(config).folder),
                bench or Bench(),
                tracker,
                warn=warn,
                clock=Ticks(),
            )
            with session:
                return session.run(until)

    return run


class Ticks:
    """A clock on which everything that is timed takes a second."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> float:
        self.now += 1
        return float(self.now)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs nobody disturbed, by kind, made on first use."""
    return {"lora": tmp_path_factory.mktemp("lora"), "full": tmp_path_factory.mktemp("full")}


def oracle(undisturbed: dict[str, Path], train_in: Run, kind: str) -> Path:
    folder = undisturbed[kind]
    if not (folder / "spool.jsonl").exists():
        train_in(folder, *(FULL if kind == "full" else ()))
    return folder


def test_a_run_leaves_config_facts_checkpoints_and_its_result(train_in: Run, tmp_path: Path) -> None:
    report = train_in(tmp_path)
    run = RunFolder(tmp_path)
    assert report.step == STEPS
    assert 3 * STEPS <= report.seconds <= 4 * STEPS, "a tick each for loading, one or two micro-batches, the update"
    config = from_dict(yaml.safe_load(run.config.read_text()))
    assert isinstance(config, RunConfig)
    assert config.adapter.dropout == 0.1
    facts = run.read_facts()
    assert (facts["total_steps"], facts["base"]) == (STEPS, config.model.path)
    assert facts["steps_per_epoch"] > 1
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [name_of(18), name_of(24)]
    assert not [name for path in run.checkpoints.iterdir() for name in damage(path)]
    assert {"adapter_config.json", "adapter_model.safetensors", "integrity.json", "tokenizer.json"} <= {
        path.name for path in run.adapter.iterdir()
    }
    assert read_integrity(run.adapter).parameters > 0
    assert not list(tmp_path.glob(".writing*"))
    points = curves(tmp_path)
    assert [step for step, _ in points["train/loss"]] == list(range(1, STEPS + 1))
    assert [step for step, _ in points["eval/loss"]] == [6, 12, 18, 24]
    assert points["eval/loss"][-1][1] == report.metrics["eval/loss"] < points["eval/loss"][0][1]


def test_packed_micro_batches_and_mixed_sources_train_as_plain_ones(
    train_in: Run, tmp_path: Path, world: World, home: Path
) -> None:
    rows = world.rows.read_text().splitlines()
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for number, file in enumerate(files):
        file.write_text("".join(f"{row}\n" for row in rows[number * 60 : number * 60 + 60]))
    mixed = (
        "data.train=[]",
        f"data.sources={{one: {{files: [{files[0]}], count: 70}}, two: {{files: [{files[1]}], limit: 30}}}}",
        "engine.precision=fp64",
        "adapter.dropout=0",
    )
    for name, words in {"plain": ("optim.micro_batch=4",), "packed": ("optim.micro_tokens=512",)}.items():
        train_in(tmp_path / name, *mixed, *words)
    plain, packed = (curves(tmp_path / name) for name in ("plain", "packed"))
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert [value for _, value in packed[metric]] == pytest.approx([v for _, v in plain[metric]], rel=1e-9)
    config = compose([*world.words(*mixed, "optim.micro_tokens=512"), f"home={home}"])
    data = prepare_data(config)
    assert (data.report.sources["one"].epoch_documents, data.report.sources["two"].documents) == (70, 30)
    found = plan(config, data)
    assert found.steps_per_epoch == 100 / config.optim.batch_size
    assert 0 < found.efficiency.padded <= 1
    assert found.efficiency.packed is not None


def test_a_full_fine_tune_leaves_an_ordinary_model_with_the_logits_of_the_last_checkpoint(
    undisturbed: dict[str, Path], train_in: Run, world: World
) -> None:
    run = RunFolder(oracle(undisturbed, train_in, "full"))
    model = AutoModelForCausalLM.from_pretrained(run.model)
    saved = AutoModelForCausalLM.from_pretrained(run.checkpoints / name_of(STEPS))
    base = AutoModelForCausalLM.from_pretrained(world.model)
    tokens = AutoTokenizer.from_pretrained(run.model)("It is 4.", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(tokens).logits
        assert torch.equal(logits, saved(tokens).logits)
        assert not torch.allclose(logits, base(tokens).logits, atol=0.1)
    assert not run.adapter.exists()


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("cuts", [[7], [6, 13, 20]], ids=["once", "often"])
def test_a_run_stopped_anywhere_and_resumed_in_other_processes_gives_the_same_bits(
    undisturbed: dict[str, Path], train_in: Run, tmp_path: Path, kind: str, cuts: list[int]
) -> None:
    words = FULL if kind == "full" else ()
    for until in [*cuts, None]:
        train_in(tmp_path, *words, until=until)
    expected = oracle(undisturbed, train_in, kind)
    assert result_bytes(tmp_path) == result_bytes(expected)
    found, whole = curves(tmp_path), curves(expected)
    # A rung is measured although its turn has not come; everything else is the same.
    assert {step: value for step, value in found["eval/loss"] if step % 6 == 0} == dict(whole["eval/loss"])
    assert found["train/loss"] == whole["train/loss"]
    assert found["train/grad_norm"] == whole["train/grad_norm"]


def test_a_damaged_checkpoint_is_told_and_the_one_before_leads_to_the_same_bits(
    undisturbed: dict[str, Path], train_in: Run, tmp_path: Path
) -> None:
    train_in(tmp_path, until=18)
    checkpoints = RunFolder(tmp_path).checkpoints
    (checkpoints / name_of(18) / "optimizer.safetensors").write_bytes(b"")
    warnings: list[str] = []
    train_in(tmp_path, warn=warnings.append)
    assert "step-00000018 is damaged (optimizer.safetensors differs from its manifest)" in warnings[0]
    expected = oracle(undisturbed, train_in, "lora")
    assert result_bytes(tmp_path) == result_bytes(expected)
    assert curves(tmp_path) == curves(expected)


def test_a_warm_bench_gives_the_same_bits_as_a_fresh_one(
    undisturbed: dict[str, Path], train_in: Run, tmp_path: Path
) -> None:
    bench = Bench()
    train_in(tmp_path / "other", "adapter.rank=2", "seed=3", until=3, bench=bench)
    train_in(tmp_path / "this", bench=bench)
    assert result_bytes(tmp_path / "this") == result_bytes(oracle(undisturbed, train_in, "lora"))


def test_answers_are_generated_and_judged_when_asked_for(train_in: Run, tmp_path: Path) -> None:
    report = train_in(tmp_path, "evaluation.generate=3", "evaluation.max_new_tokens=4", until=2)
    assert 0 <= report.metrics["eval/exact_match"] <= 1
    assert 0 <= report.metrics["eval/finished"] <= 1


def test_plain_text_trains_on_every_token(train_in: Run, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": f"Line {n}: it is {n * 7}, 一共{n}个。"}) for n in range(60)]
    text.write_text("\n".join(lines) + "\n")
    words = (*FULL, "objective=pretrain", f"data.train=[{text}]", "data.format=text", "optim.lr=5e-3")
    report = train_in(tmp_path / "run", *words)
    points = curves(tmp_path / "run")["eval/loss"]
    assert report.step == STEPS
    assert points[-1][1] < points[0][1] - 0.3
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").num_parameters() > 0


def test_data_that_changed_since_the_run_started_is_refused_until_it_is_put_back(
    undisturbed: dict[str, Path], train_in: Run, tmp_path: Path
) -> None:
    train_in(tmp_path, until=6)
    for _ in range(2):
        with pytest.raises(UsageError, match="the data, its settings or the tokenizer changed since this run started"):
            train_in(tmp_path, "data.limit=20")
    train_in(tmp_path)
    assert result_bytes(tmp_path) == result_bytes(oracle(undisturbed, train_in, "lora"))


def test_base_weights_that_changed_since_the_run_started_are_refused(
    train_in: Run, world: World, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(world.model, tmp_path / "model"))
    train_in(tmp_path / "run", until=6, model=model)
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(
        BadAdapter, match=r"(?s)the adapter was trained on base .*put the weights it was trained on back"
    ):
        train_in(tmp_path / "run", model=model)


def test_a_checkpoint_of_another_rank_is_refused_and_leaves_the_bench_as_it_was(
    undisturbed: dict[str, Path], train_in: Run, tmp_path: Path
) -> None:
    bench = Bench()
    train_in(tmp_path / "a", until=6)
    with pytest.raises(StoreError, match=r"the saved adapter has other tensors than this trial's\n  -> resume with"):
        train_in(tmp_path / "a", "adapter.rank=2", bench=bench)
    engine = bench.engine(from_dict(yaml.safe_load((tmp_path / "a" / "run.yaml").read_text())))
    assert not engine.slots, "the refused trial still has a place on the shared base"
    train_in(tmp_path / "b", bench=bench)
    assert result_bytes(tmp_path / "b") == result_bytes(oracle(undisturbed, train_in, "lora"))


@pytest.mark.parametrize("words", [(), FULL], ids=["lora", "full"])
def test_a_rate_that_is_far_too_high_diverges_and_leaves_no_result(
    train_in: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    with pytest.raises(Diverged, match=r"became (nan|inf) at step \d+\n  -> lower optim.lr"):
        train_in(tmp_path, *words, "optim.lr=1e30")
    run = RunFolder(tmp_path)
    assert not run.adapter.exists()
    assert not run.model.exists()
    for saved in run.checkpoints.glob("step-*"):
        assert all(torch.isfinite(t).all() for t in load(saved).values()), "a poisoned checkpoint would be resumed"


def load(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


def test_the_best_checkpoint_is_the_one_with_the_lowest_loss_measured_where_it_was_saved(tmp_path: Path) -> None:
    assert best_checkpoint(tmp_path) is None
    losses = {5: (2.0, 5), 10: (1.5, 10), 15: (1.0, 12), 20: (1.5, 20)}  # step -> loss, measured at
    for step, (loss, measured) in losses.items():
        folder = tmp_path / name_of(step)
        folder.mkdir()
        told = Progress(step=step, metrics={"eval/loss": loss}, measured=measured)
        (folder / PROGRESS).write_text(json.dumps(asdict(told)))
    damaged = tmp_path / name_of(25)
    damaged.mkdir()
    (damaged / PROGRESS).write_text("{")
    assert best_checkpoint(tmp_path) == tmp_path / name_of(10)
