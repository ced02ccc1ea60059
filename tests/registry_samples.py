"""A home with real trained runs, small enough for tests: a base that can learn, a sweep of two trials, a training."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ftcluster.config.compose import compose, to_dict
from ftcluster.config.identity import identity
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.training.launch import Ready, get_ready, register, run_training

SWEEP = "answers"  # its spec's name; the sweep itself is answers-2, as if there had been one before
PROMPT = "Question 3?"


@dataclass(frozen=True)
class Home:
    """``weak`` and ``strong`` are trials of the sweep, ``other`` is a training as good as ``strong``."""

    path: Path
    base: Path
    sweep: str = f"{SWEEP}-2"
    weak: str = "answers-2-0"
    strong: str = "answers-2-1"
    other: str = "other"


def learnable_base(tiny: Path, folder: Path) -> Path:
    """A copy of a tiny model with embeddings large enough that an adapter alone can make it sure of an answer."""
    return _scaled(tiny, folder, 30.0, {"lm_head.weight", "model.embed_tokens.weight"})


def talkative_base(tiny: Path, folder: Path) -> Path:
    """A copy of a tiny model with matrices so large that each prompt gets an answer of its own, sensible or not."""
    weights = load_file(tiny / "model.safetensors")
    return _scaled(tiny, folder, 10.0, {name for name in weights if name.endswith("_proj.weight")})


def _scaled(tiny: Path, folder: Path, factor: float, names: set[str]) -> Path:
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    scaled = {name: weight * factor if name in names else weight for name, weight in weights.items()}
    save_file(scaled, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@cache
def trained_home(tiny: Path, folder: Path) -> Home:
    """Train the three runs, deliver them to the embedded MLflow, and add runs in other states to the ledger.

    Made once per folder: every test promotes under a model name of its own.
    """
    folder.mkdir()
    torch.set_num_threads(1)
    home = Home(folder / "home", learnable_base(tiny, folder / "base"))
    rows = [{"question": f"Question {i}?", "answer": ("Paris", "上海")[i % 2]} for i in range(120)]
    data = folder / "rows.json"
    data.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    weak, strong = (ready(home, data, f"optim.duration={steps} steps") for steps in (15, 60))
    with Ledger.open(home.path) as ledger:
        spec = {"name": SWEEP, "metric": "eval/loss", "direction": "minimize"}
        ledger.add(RunRow(home.sweep, "sweep", str(home.path / home.sweep), {"spec": spec}))
        for number, (name, config) in enumerate([(home.weak, weak), (home.strong, strong)]):
            train(ledger, trial(home, name, number, config), config)
        other = ready(home, data, "optim.duration=60 steps", "seed=5")
        train(ledger, register(other, ledger, home.other), other)
        for number, state in enumerate([RunState.FAILED, RunState.PRUNED, RunState.RUNNING], start=2):
            row = ledger.add(trial(home, f"{home.sweep}-{state.value}", number, strong))
            ledger.set_state(row.name, RunState.RUNNING)
            ledger.set_state(row.name, state)
    return home


def ready(home: Home, data: Path, *words: str) -> Ready:
    settings = {
        "home": home.path,
        "model.path": home.base,
        "data.train": f"[{data}]",
        "data.test_fraction": 0.3,
        "adapter.rank": 8,
        "optim.lr": 1e-2,
        "evaluation.max_new_tokens": 12,
    }
    chosen = ["model=folder", "data=jsonl", "adapter=lora"]
    return get_ready(compose([*chosen, *(f"{key}={value}" for key, value in settings.items()), *words]))


def trial(home: Home, name: str, number: int, config: Ready) -> RunRow:
    named = replace(config.config, name=name)
    folder = str(home.path / home.sweep / name)
    return RunRow(name, "trial", folder, to_dict(named), identity=identity(named), parent=home.sweep, number=number)


def train(ledger: Ledger, row: RunRow, config: Ready) -> None:
    known = {run.name for run in ledger.runs()}
    run_training(row if row.name in known else ledger.add(row), config, ledger, lambda _: None)
