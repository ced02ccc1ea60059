"""Response surfaces: how the held-out loss of every point of a grid fell while a tiny model was really trained on it.

A recipe says what is trained and what is varied. `record` trains the whole grid with `ftcluster sweep` and keeps the
curves, `LOOKS` values each, beside the command, date and versions that made them. Whoever replays a surface learns at
once what minutes of training found.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.models.tiny import create_tiny_model
from ftcluster.tracking.history import read_metrics

FOLDER = Path(__file__).with_name("surfaces")
LOOKS = 27  # values of a curve, evenly spread over a training: rungs of eta 3 lie on them, and nearly those of 2 and 4
ROWS = 32 * LOOKS  # that a training sees in all, whatever its batch size and epochs
METRIC = "eval/loss"
SEED = 17


@dataclass(frozen=True)
class Recipe:
    """What is trained, what is varied, and for how long."""

    question: str
    data: str  # a file of the data folder
    space: dict[str, str]
    epochs: int = 1
    variants: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    architecture: str = "qwen2"
    pretrained: bool = True  # on plain text, for some seconds; else random weights


_RATES = "choice(3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)"
RECIPES = {
    "gsm8k_lora": Recipe(
        "which rate, rank and weight decay for LoRA on school mathematics?",
        data="gsm8k_train.jsonl",
        space={
            "optim.lr": _RATES,
            "adapter.rank": "choice(2, 16)",
            "optim.weight_decay": "choice(0.0, 0.1)",
        },
    ),
    "alpaca_lora": Recipe(
        "which rate, rank and batch size for LoRA of a Llama on instructions?",
        data="alpaca_en_demo.json",
        epochs=3,
        space={
            "optim.lr": _RATES,
            "adapter.rank": "choice(4, 16)",
            "optim.batch_size": "choice(4, 8)",
        },
        words=("adapter=lora_qv",),
        architecture="llama",
    ),
    "gsm8k_full": Recipe(
        "which rate, batch size and warmup for a full fine-tune of a Llama?",
        data="gsm8k_train.jsonl",
        space={
            "optim.lr": "choice(1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)",
            "optim.batch_size": "choice(4, 8)",
            "optim.warmup": "choice(0.03, 0.2)",
        },
        words=("adapter=none",),
        architecture="llama",
    ),
    "text_from_scratch": Recipe(
        "which rate, schedule and clipping for a Qwen2 that has read nothing yet?",
        data="c4_demo.jsonl",
        space={
            "optim.lr": _RATES,
            "optim.schedule": "choice(cosine, constant)",
            "optim.clip": "choice(0.3, 1.0)",
        },
        words=(
            "adapter=none",
            "objective=pretrain",
            "data.format=text",
            "data.too_long=split",
            "optim.duration=216 steps",  # how many parts its rows become is not known beforehand
            "evaluation.every=8 steps",
            "engine.checkpoint_every=216 steps",
        ),
        pretrained=False,
    ),
    "alpaca_full_or_lora": Recipe(
        "full fine-tune or LoRA of which rank, and at which rate, for instructions?",
        data="alpaca_en_demo.json",
        epochs=3,
        space={"method": "choice(full, rank2, rank8, rank32)", "optim.lr": _RATES},
        variants={
            "method": {
                "full": ["adapter=none"],
                "rank2": ["adapter.rank=2"],
                "rank8": ["adapter.rank=8"],
                "rank32": ["adapter.rank=32"],
            }
        },
    ),
}


@dataclass(frozen=True)
class Surface:
    """A grid and the curve of each of its points."""

    name: str
    question: str
    made: dict[str, Any]
    space: dict[str, str]
    variants: dict[str, dict[str, list[str]]]
    points: list[dict[str, Any]]
    curves: list[list[float]]  # NaN from where a training diverged

    @property
    def best(self) -> float:
        """The lowest loss of the grid at the end of a training."""
        return min(curve[-1] for curve in self.curves if not math.isnan(curve[-1]))

    def number(self, point: dict[str, Any]) -> int:
        """Which point of the grid this is."""
        return self.points.index(point)

    def regret(self, number: int) -> float:
        """By which share of the best loss a point is worse at its end."""
        return self.curves[number][-1] / self.best - 1


def load(name: str) -> Surface:
    """A recorded surface."""
    stored = json.loads((FOLDER / f"{name}.json").read_text())
    curves = [[math.nan if value is None else value for value in curve] for curve in stored.pop("curves")]
    return Surface(name=name, curves=curves, **stored)


def names() -> list[str]:
    """All that are recorded."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def record(name: str, data: Path, folder: Path) -> Surface:
    """Train the whole grid of a recipe in ``folder`` and write its surface."""
    recipe = RECIPES[name]
    words = prepare(recipe, data, folder)
    began = time.time()
    curves = dict(read_curves(sweep(recipe, words, folder, name.replace("_", "-"), {"name": "none"})))
    made = {
        "command": f"python benchmarks/search_quality.py --record {name} --data DATA",
        "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "seed": SEED,
        "torch": version("torch"),
        "recipe": {key: value for key, value in asdict(recipe).items() if key not in ("question", "space", "variants")},
    }
    stored = {
        "question": recipe.question,
        "made": made,
        "space": recipe.space,
        "variants": recipe.variants,
        "points": list(map(json.loads, curves)),
        "curves": list(curves.values()),
    }
    rows = ",\n".join(f'"{key}": {_compact(value)}' for key, value in stored.items())
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(f"{{\n{rows}\n}}\n")
    return load(name)


def _compact(value: Any) -> str:
    """JSON with a line for each point or curve."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(each, separators=(",", ":")) for each in value) + "\n]"
    return json.dumps(value)


def prepare(recipe: Recipe, data: Path, folder: Path) -> list[str]:
    """Make the model; the words that all trials share."""
    model, file = _model(recipe, data, folder), (data / recipe.data).absolute()
    return [
        "experiment=lora_sft",
        f"seed={SEED}",
        "model=folder",
        f"model.path={model}",
        "data=jsonl",
        f"data.train=[{file}]",
        "data.max_length=160",
        "data.refuse={too_long: 1.0}",
        f"data.limit={ROWS // recipe.epochs}",
        "evaluation=loss",
        f"evaluation.every={recipe.epochs / LOOKS:.12f} epochs",
        "evaluation.max_rows=32",
        f"optim.duration={recipe.epochs} epochs",
        "optim.batch_size=4",
        "optim.micro_batch=4",
        f"engine.checkpoint_every={recipe.epochs} epochs",
        "engine.threads=1",
        "tracking.log_every=50",
        *recipe.words,
    ]


def _model(recipe: Recipe, data: Path, folder: Path) -> Path:
    """A tiny model whose tokenizer knows the data, and which has read some text, if the recipe says so."""
    text = (data / "c4_demo.jsonl").absolute()
    rows = [*text.read_text().splitlines(), *(data / "gsm8k_train.jsonl").read_text().splitlines()[:1000]]
    texts = [" ".join(map(str, json.loads(line).values())) for line in rows]
    untrained = folder / f"untrained-{recipe.architecture}"
    if not untrained.exists():
        create_tiny_model(
            untrained, texts, architecture=recipe.architecture, hidden_size=64, layers=2, vocabulary=1024, seed=SEED
        )
    if not recipe.pretrained:
        return untrained
    base = f"base-{recipe.architecture}"
    model = folder / "home" / base / "model"
    if not model.exists():
        words = [
            "experiment=pretrain",
            f"name={base}",
            f"seed={SEED}",
            "model=folder",
            f"model.path={untrained}",
            "data=jsonl",
            "data.format=text",
            f"data.train=[{text}]",
            "data.max_length=128",
            "data.too_long=split",
            "optim.duration=300 steps",
            "optim.batch_size=16",
            "optim.micro_batch=16",
            "evaluation.every=300 steps",
        ]
        _ftcluster(["train", *words, "--home", str(folder / "home")])
    return model


def sweep(recipe: Recipe, words: Sequence[str], folder: Path, name: str, pruner: dict[str, Any]) -> Path:
    """`ftcluster sweep` over all points of a recipe's grid; the folder of the sweep."""
    file = folder / f"{name}.yaml"
    spec = {
        "name": name,
        "base": list(words),
        "space": recipe.space,
        "variants": recipe.variants,
        "sampler": {"name": "grid", "seed": SEED},
        "pruner": pruner,
        "budget": {"trials": 10_000},
        "metric": METRIC,
    }
    file.write_text(json.dumps(spec))
    _ftcluster(["sweep", str(file), "--new", "--json", "--home", str(folder / "home")])
    return folder / "home" / name


def read_curves(sweep: Path) -> list[tuple[str, list[float | None]]]:
    """Each point of a finished sweep, as JSON, with its curve."""
    with Ledger.open(sweep.parent) as ledger:
        trials = ledger.runs(parent=sweep.name)
    found = []
    for trial in trials:
        points = read_metrics(Path(trial.folder)).get(METRIC, [])
        curve: list[float | None] = [float(f"{point.value:.6g}") for point in points if math.isfinite(point.value)]
        assert trial.state is not RunState.FINISHED or len(curve) == LOOKS, f"{trial.name} has {len(curve)} values"
        found.append((json.dumps(dict(trial.overrides)), curve + [None] * (LOOKS - len(curve))))
    return found


def _ftcluster(words: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "ftcluster", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ftcluster {words[0]} failed:\n{done.stderr[-3000:]}")
