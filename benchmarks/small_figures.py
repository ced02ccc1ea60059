"""What single operations cost that a sweep repeats thousands of times; no peer, only seconds.

    python benchmarks/small_figures.py [--rows gsm8k_train.jsonl]

Each line says what was repeated how often. The last line is one JSON object of medians, in the unit of its name.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ftcluster.config.compose import compose
from ftcluster.config.grammar import parse_space
from ftcluster.contracts.trial import RunState
from ftcluster.evaluation.bootstrap import paired_difference
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.models.tiny import create_tiny_model
from ftcluster.sweep.halving import decide
from ftcluster.sweep.space import Space
from ftcluster.sweep.study import Observation, propose
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.bench import prepare_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, help="question/answer JSONL to prepare, twice")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        figures |= tracking(Path(folder)) | ledger(Path(folder)) | decisions() | proposals() | bootstrap()
        if options.rows:
            figures |= preparing(Path(folder), options.rows)
    for name, value in figures.items():
        print(f"{name}: {value:,.3g}")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def median(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def tracking(folder: Path) -> dict[str, float]:
    tracker = SpoolTracker(folder / "run")
    steps = iter(range(10_000))
    values = {f"train/{name}": 1.0 for name in "abcde"}
    seconds = median(lambda: tracker.metrics(values, next(steps)), 10_000)
    tracker.close()
    return {"tracker_metrics_us": 1e6 * seconds}


def ledger(folder: Path) -> dict[str, float]:
    with Ledger.open(folder) as opened:
        opened.add(RunRow(name="run", kind="train", folder=str(folder / "run"), config={}))
        return {"ledger_write_ms": 1e3 * median(lambda: opened.set_state("run", RunState.RUNNING), 200)}


def decisions() -> dict[str, float]:
    draw = random.Random(1)
    rungs = (1, 2, 4, 8, 16)
    values = {number: {rung: draw.random() for rung in range(len(rungs))} for number in range(10_000)}
    return {"halving_10000_trials_ms": 1e3 * median(lambda: decide(10_000, rungs, 2, "minimize", values, set()), 5)}


def proposals() -> dict[str, float]:
    space = Space(parse_space({"optim.lr": "tag(log, interval(1e-5, 1e-2))", "adapter.rank": "choice(4, 8, 16)"}))
    draw = random.Random(1)
    found = {}
    for count in (100, 1000, 3000):
        history = [
            Observation(
                n, {"optim.lr": 10 ** draw.uniform(-5, -2), "adapter.rank": 8}, RunState.FINISHED, draw.random()
            )
            for n in range(count)
        ]

        def ask(history: list[Observation] = history, count: int = count) -> object:
            return propose(space, "tpe", seed=1, direction="minimize", number=count, history=history)

        found[f"tpe_after_{count}_ms"] = 1e3 * median(ask, 5)
    return found


def bootstrap() -> dict[str, float]:
    draw = np.random.default_rng(1)
    one, other = draw.random((2, 500))
    weights = np.ones(500)
    return {
        "bootstrap_500_rows_ms": 1e3 * median(lambda: paired_difference(one, other, weights, lower_is_better=True), 5)
    }


def preparing(folder: Path, rows: Path) -> dict[str, float]:
    texts = [" ".join(map(str, json.loads(line).values())) for line in rows.read_text().splitlines()]
    model = create_tiny_model(folder / "model", texts, vocabulary=4096)
    config = compose(
        ["model=folder", f"model.path={model}", "data=jsonl", f"data.train=[{rows.absolute()}]", f"home={folder}/home"]
    )
    return {name: median(lambda: prepare_data(config), 1) for name in ("prepare_first_s", "prepare_second_s")}


if __name__ == "__main__":
    main()
