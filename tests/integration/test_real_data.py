"""The same verbs on real files, with a Hugging Face folder whose tokenizer was trained on that text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from ftcluster.cli import main
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.models.tiny import create_tiny_model
from ftcluster.tracking.history import read_metrics

pytestmark = pytest.mark.slow
FILES = {"gsm8k": "gsm8k_train.jsonl", "alpaca": "alpaca_en_demo.json"}
SHORT = ["data.limit=240", "data.max_length=256", "optim.batch_size=8", "optim.micro_batch=4", "evaluation.max_rows=32"]


@pytest.fixture(scope="module", params=FILES)
def words(request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words that name the file and a tiny Qwen2 made for it; ten steps of training."""
    file = real_data / FILES[request.param]
    text = file.read_text(encoding="utf-8")
    rows = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    folder = tmp_path_factory.mktemp(request.param) / "model"
    texts = [" ".join(str(value) for value in row.values()) for row in rows[:1000]]
    create_tiny_model(folder, texts, hidden_size=32, layers=2, heads=4, kv_heads=2, vocabulary=800)
    named = ["model=folder", f"model.path={folder}", "data=jsonl", f"data.train=[{file}]"]
    return [*named, *SHORT, "evaluation=loss", "optim.duration=10 steps", "evaluation.every=5 steps"]


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_training_learns_from_the_file(words: list[str], adapter: str, tmp_path: Path) -> None:
    code = main(["train", *words, f"adapter={adapter}", "optim.lr=5e-3", "name=alone", "--home", str(tmp_path)])
    assert code == 0
    with Ledger.open(tmp_path) as ledger:
        row = ledger.get("alone")
    assert (row.state, row.step) == (RunState.FINISHED, 10)
    losses = [point.value for point in read_metrics(Path(row.folder))["eval/loss"]]
    assert losses[-1] < losses[0]
    if adapter == "none":
        assert AutoModelForCausalLM.from_pretrained(Path(row.folder) / "model").num_parameters() > 0
    else:
        assert (Path(row.folder) / "adapter/adapter_model.safetensors").stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("identity.json", []),
        ("glaive_toolcall_en_demo.json", ["data.too_long=truncate_left"]),
        ("dpo_en_demo.json", ["optim.micro_tokens=1024"]),
        ("kto_en_demo.json", ["data.too_long=truncate_right"]),
        ("c4_demo.jsonl", ["objective=pretrain", "data.too_long=split"]),
    ],
)
def test_files_of_every_other_format_train_for_ten_steps(
    name: str, more: list[str], real_data: Path, tmp_path: Path
) -> None:
    file = real_data / name
    folder = tmp_path / "model"
    text = file.read_text(encoding="utf-8")[:300_000]
    create_tiny_model(folder, text.splitlines(), hidden_size=32, layers=2, heads=4, kv_heads=2, vocabulary=800)
    short = [word for word in SHORT if not word.startswith("data.max_length")]
    named = ["model=folder", f"model.path={folder}", "data=jsonl", f"data.train=[{file}]", "data.max_length=512"]
    length = ["evaluation=loss", "optim.duration=10 steps", "evaluation.every=5 steps", "optim.lr=5e-3"]
    assert main(["train", *named, *short, *length, *more, "name=alone", "--home", str(tmp_path / "home")]) == 0
    with Ledger.open(tmp_path / "home") as ledger:
        row = ledger.get("alone")
    assert (row.state, row.step) == (RunState.FINISHED, 10)
    losses = [point.value for point in read_metrics(Path(row.folder))["eval/loss"]]
    assert losses[-1] < losses[0]


@pytest.mark.thorough
@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_sweep_finds_its_best_trial_on_the_file(words: list[str], adapter: str, tmp_path: Path) -> None:
    sweep = tmp_path / "rates.yaml"
    sweep.write_text(
        f"name: rates\nbase: {json.dumps([*words, f'adapter={adapter}'])}\n"
        "space:\n  optim.lr: choice(1e-5, 5e-3)\nsampler: {name: grid}\nbudget: {trials: 2}\n"
    )
    command = [sys.executable, "-m", "ftcluster", "sweep", str(sweep), "--home", str(tmp_path / "home"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["best"] == "rates-01"
    assert [trial["state"] for trial in report["trials"]] == ["finished", "finished"]
