"""A small world to train in: a tiny model, question and answer rows, and the command line that trains on them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from ftcluster.contracts.folder import RunFolder
from ftcluster.models.tiny import create_tiny_model
from ftcluster.tracking.history import read_metrics

STEPS = 24
EVERY = 6  # steps between evaluations, each followed by a checkpoint
KEPT = ("train/loss", "train/lr", "train/grad_norm", "train/epoch", "eval/loss", "eval/perplexity")


@dataclass(frozen=True)
class World:
    """Where model and rows are."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def rows(self) -> Path:
        return self.folder / "rows.jsonl"

    def words(self, *more: str) -> list[str]:
        """Overrides of a short LoRA training with dropout; later words win."""
        return [
            "experiment=lora_sft",
            "model=folder",
            "data=jsonl",
            f"model.path={self.model}",
            f"data.train=[{self.rows}]",
            f"optim.duration={STEPS} steps",
            "optim.batch_size=4",
            "optim.micro_batch=2",
            "evaluation=loss",
            f"evaluation.every={EVERY} steps",
            "evaluation.max_rows=8",
            "adapter.dropout=0.1",
            "engine.threads=1",
            *more,
        ]

    def arguments(self, home: Path, *more: str) -> list[str]:
        """The words after ``ftcluster`` that train into ``home``."""
        return ["train", *self.words(*more), "--home", str(home)]


def make_world(folder: Path) -> World:
    """Write model and rows into a folder."""
    draw = random.Random(5)
    pairs = [(draw.randint(1, 99), draw.randint(1, 99)) for _ in range(120)]
    rows = [{"question": f"What is {a} plus {b}?", "answer": f"It is {a + b}."} for a, b in pairs]
    world = World(folder)
    world.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [" ".join(row.values()) for row in rows]
    create_tiny_model(world.model, texts, hidden_size=32, layers=2, heads=4, kv_heads=2, vocabulary=300)
    return world


Curves = dict[str, list[tuple[int, float]]]


def curves(run: Path) -> Curves:
    """(step, value) of every metric that a resumed run must have as an undisturbed one."""
    return {name: [(m.step, m.value) for m in points] for name, points in read_metrics(run).items() if name in KEPT}


def result_bytes(run: Path) -> dict[str, bytes]:
    """The result's weights and config, byte for byte."""
    folder = RunFolder(run)
    place = folder.adapter if folder.adapter.is_dir() else folder.model
    return {path.name: path.read_bytes() for path in sorted(place.iterdir()) if path.suffix == ".safetensors"}
