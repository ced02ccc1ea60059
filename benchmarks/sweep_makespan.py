"""How long a sweep of LoRA trials takes: ftcluster against TRL's SFTTrainer + PEFT with one process per trial.

    (a) TRL, as many trials at once as there are cores, each on one thread, each a fresh process
    (b) ftcluster with trials one at a time on warm hosts (engine.name=local)
    (c) ftcluster with trials packed on warm hosts

The same model, tokens, order of rows, settings and number of steps; both sides measure the held-out loss, and find
the rows tokenised; ftcluster, which alone keeps records, finds an empty MLflow store. Every second counts on all
sides: start of processes and of Ray, imports, loading, checkpoints, records. What differs is the random draw of each
adapter's A. With
``--halving`` all stop weak trials at the same rungs; the peer then runs one process per trial and rung.

    python benchmarks/sweep_makespan.py --rows gsm8k_train.jsonl [--trials 8] [--steps 40] [--halving] [--seconds]

The last line is one JSON object; ``ratio`` is (a) over (c).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcluster.config.compose import compose
from ftcluster.models.tiny import create_tiny_model
from ftcluster.sweep.halving import rungs as rungs_of
from ftcluster.tracking.mlflow_store import prepare_store, tracking_uri
from ftcluster.training.bench import prepare_data
from ftcluster.training.session import loader_of

BATCH, VALIDATION, ETA = 4, 32, 3
RANKS, RATES = (4, 8, 16), (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 3e-2)
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Setting:
    """What both sides share."""

    folder: Path
    model: Path
    words: list[str]
    points: list[dict[str, float]]
    steps: int
    rungs: list[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="question/answer JSONL")
    parser.add_argument("--trials", type=int, default=8, choices=range(1, 28), metavar="1..27")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--halving", action="store_true", help="stop weak trials early, on all sides at the same rungs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        setting = set_up(Path(folder), options)
        peer = run_trl(setting)
        solo = run_ftcluster(setting, "solo", ["engine.name=local"], options.halving)
        packed = run_ftcluster(setting, "packed", ["engine.name=packed"], options.halving)
        empty = padding(setting)
    for name in sorted(packed["losses"]):
        print(f"{name}: held-out loss {peer['losses'][name]:.6f} TRL, {packed['losses'][name]:.6f} ftcluster")
    worst = max(abs(packed["losses"][n] - peer["losses"][n]) for n in packed["losses"])
    report = {
        "ratio": round(peer["seconds"] / packed["seconds"], 2),
        "ratio_solo": round(peer["seconds"] / solo["seconds"], 2),
        "trl_s": round(peer["seconds"], 1),
        "solo_s": round(solo["seconds"], 1),
        "packed_s": round(packed["seconds"], 1),
        "trl_startup_s": round(peer["startup"], 1),
        "trl_training_s": round(peer["training"], 1),
        "trl_processes": peer["processes"],
        "padding_share": round(empty, 3),
        "trials": options.trials,
        "steps": options.steps,
        "rungs": setting.rungs,
        "largest_loss_difference": worst,
        "cores": CORES,
    }
    print(json.dumps(report))


def set_up(folder: Path, options: argparse.Namespace) -> Setting:
    texts = [" ".join(map(str, json.loads(line).values())) for line in options.rows.read_text().splitlines()]
    model = create_tiny_model(
        folder / "model", texts, hidden_size=options.hidden, layers=options.layers, vocabulary=options.vocabulary
    )
    words = [
        "experiment=lora_sft",
        "model=folder",
        f"model.path={model}",
        "data=jsonl",
        f"data.train=[{options.rows.absolute()}]",
        "adapter=lora_all",
        "adapter.alpha=16",
        f"optim.batch_size={BATCH}",
        f"optim.micro_batch={BATCH}",
        f"optim.duration={options.steps} steps",
        "optim.warmup=0",
        "evaluation=loss",
        f"evaluation.every={options.steps} steps",
        f"evaluation.max_rows={VALIDATION}",
        "engine.threads=1",
        f"home={folder / 'prepared-home'}",
    ]
    points = [{"rank": r, "lr": lr} for lr, r in itertools.product(RATES, RANKS)][: options.trials]
    first = max(1, options.steps // ETA**2)
    rungs = rungs_of(first, ETA, options.steps) if options.halving else (options.steps,)
    write_rows(folder / "rows.json", words, options.steps)
    return Setting(folder, model, words, points, options.steps, list(rungs))


def write_rows(file: Path, words: list[str], steps: int) -> None:
    """Our own tokens in our own order, for the peer: no difference of tokenising can hide in the comparison."""
    config = compose(words)
    data = prepare_data(config)
    prepare_store(tracking_uri(Path(config.home), ""))
    loader = loader_of(config, data)
    epochs = -(-steps // loader.steps_per_epoch)
    order = [int(i) for epoch in range(epochs) for i in loader.order(epoch)][: steps * BATCH]

    def row(documents: Any, index: int) -> dict[str, list[int]]:
        tokens, trained = documents.get(index)
        return {"input_ids": tokens.tolist(), "completion_mask": [int(flag) for flag in trained]}

    rows = {
        "train": [row(data.train, i) for i in order],
        "validation": [row(data.validation, i) for i in range(min(VALIDATION, len(data.validation)))],
    }
    file.write_text(json.dumps(rows))


def padding(setting: Setting) -> float:
    """Share of the peer's slots that hold padding."""
    lengths = [len(row["input_ids"]) for row in json.loads((setting.folder / "rows.json").read_text())["train"]]
    batches = [lengths[at : at + BATCH] for at in range(0, len(lengths), BATCH)]
    return 1 - sum(lengths) / sum(max(batch) * len(batch) for batch in batches)


def name_of(point: dict[str, float]) -> str:
    return f"rank {point['rank']:g}, lr {point['lr']:g}"


def run_trl(setting: Setting) -> dict[str, Any]:
    started = time.perf_counter()
    alive = list(setting.points)
    results: dict[str, dict[str, float]] = {}
    totals = {"startup": 0.0, "training": 0.0, "processes": 0}
    reached = 0
    for rung in setting.rungs:
        with ThreadPoolExecutor(CORES) as pool:
            done = list(pool.map(lambda point, to=rung, at=reached: trl_process(setting, point, at, to), alive))
        for point, result in zip(alive, done, strict=True):
            results[name_of(point)] = result
            totals["startup"] += result["startup_s"]
            totals["training"] += result["training_s"]
            totals["processes"] += 1
        alive = sorted(alive, key=lambda point: results[name_of(point)]["eval_loss"])[: max(1, len(alive) // ETA)]
        reached = rung
    losses = {name: result["eval_loss"] for name, result in results.items()}
    return {"seconds": time.perf_counter() - started, "losses": losses, **totals}


def trl_process(setting: Setting, point: dict[str, float], reached: int, until: int) -> dict[str, float]:
    name = f"rank{point['rank']}-lr{point['lr']}"
    folder = setting.folder / "trl" / name
    folder.mkdir(parents=True, exist_ok=True)
    trial = {
        "model": str(setting.model),
        "rows": str(setting.folder / "rows.json"),
        "folder": str(folder),
        "result": str(folder / "result.json"),
        "resume": str(folder / f"checkpoint-{reached}") if reached else "",
        "rank": point["rank"],
        "lr": point["lr"],
        "alpha": 16,
        "batch": BATCH,
        "steps": setting.steps,
        "warmup": 0,
        "until": until,
        "seed": 17,
    }
    (folder / "trial.json").write_text(json.dumps(trial))
    command = [sys.executable, str(Path(__file__).with_name("trl_trial.py")), str(folder / "trial.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads((folder / "result.json").read_text())
    return result


def run_ftcluster(setting: Setting, name: str, more: list[str], halving: bool) -> dict[str, Any]:
    """The real command, in a fresh home."""
    pruner = f"{{name: halving, first: {setting.rungs[0]} steps, eta: {ETA}}}" if halving else "{name: none}"
    ranks, rates = (sorted({point[key] for point in setting.points}) for key in ("rank", "lr"))
    base = [word for word in setting.words if not word.startswith("home=")] + more
    file = setting.folder / f"{name}.yaml"
    file.write_text(
        f"name: {name}\nbase: {json.dumps(base)}\n"
        "space:\n"
        f"  optim.lr: choice({', '.join(map(str, rates))})\n"
        f"  adapter.rank: choice({', '.join(map(str, ranks))})\n"
        f"sampler: {{name: grid}}\npruner: {pruner}\nbudget: {{trials: {len(setting.points)}}}\n"
        "metric: eval/loss\ndirection: minimize\n"
    )
    home = setting.folder / name
    shutil.copytree(setting.folder / "prepared-home", home)
    command = [sys.executable, "-m", "ftcluster", "sweep", str(file), "--json", "--home", str(home)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"ftcluster failed:\n{done.stderr[-3000:]}")
    trials = json.loads(done.stdout)["trials"]
    found = {
        name_of({"rank": t["overrides"]["adapter.rank"], "lr": t["overrides"]["optim.lr"]}): t["metrics"]["eval/loss"]
        for t in trials
    }
    return {"seconds": seconds, "losses": found}


if __name__ == "__main__":
    main()
