"""What the demo's names ``data=demo`` and ``model=tiny`` stand for, made on the spot where it is missing.

    <home>/demo/pretrain.jsonl, tools.jsonl    generated text and tool calls
    <home>/demo/untrained/                     a Qwen2 of random weights with a tokenizer for that text
    <home>/demo/base/                          the same model after pre-training, by a full fine-tune of our own

Owns making them once. The training is the one every user runs: ``ftcluster train experiment=pretrain``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ftcluster.config.compose import compose, resolve_home
from ftcluster.config.schema import RunConfig
from ftcluster.demo.text import DemoData, read_texts, write_demo_data
from ftcluster.ledger.store import Ledger

if TYPE_CHECKING:
    from ftcluster.training.loop import Progress

Announce = Callable[[str], None]
Observe = Callable[["Progress", int], None]


def provide(config: RunConfig, announce: Announce, observe: Observe) -> None:
    """Make whatever of the demo's world a config names and is not there yet."""
    folder = resolve_home(config) / "demo"
    named = [Path(p) for p in (config.model.path, *config.data.train, *config.data.validation, *config.data.test)]
    missing = [path for path in named if path.is_relative_to(folder) and not path.exists()]
    if any(path.parent == folder and path.suffix == ".jsonl" for path in missing):
        make_texts(folder)
    if folder / "untrained" in missing:
        make_untrained(folder)
    if folder / "base" in missing:
        announce("model=tiny is made on the spot: pre-training it takes about a minute, once")
        make_base(resolve_home(config), observe)


def make_texts(folder: Path) -> DemoData:
    """The two data files; the same bytes each time."""
    data = DemoData(folder / "pretrain.jsonl", folder / "tools.jsonl")
    return data if data.pretrain.exists() and data.tools.exists() else write_demo_data(folder)


def make_untrained(folder: Path) -> Path:
    """The model before it has read anything."""
    model = folder / "untrained"
    if model.exists():
        return model
    from ftcluster.models.tiny import create_tiny_model  # brings torch

    return create_tiny_model(
        model,
        read_texts(make_texts(folder)),
        hidden_size=128,
        layers=2,
        heads=4,
        kv_heads=2,
        vocabulary=1024,
        max_length=512,
    )


def make_base(home: Path, observe: Observe) -> Path:
    """The pre-trained model: a full fine-tune of the untrained one on plain text, registered like any run."""
    base = home / "demo" / "base"
    if base.exists():
        return base
    make_untrained(home / "demo")
    from ftcluster.training.launch import get_ready, register, run_training  # brings torch

    ready = get_ready(compose(["experiment=pretrain", f"home={home}"]))
    with Ledger.open(home) as ledger:
        row = register(ready, ledger, "pretrain")
        result = run_training(row, ready, ledger, lambda progress: observe(progress, ready.plan.total))
    aside = base.with_name(".base")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(result.folder.model, aside)
    aside.rename(base)
    return base
