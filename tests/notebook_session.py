"""What somebody does in a notebook with nothing but ``import ftcluster``, told as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import ftcluster


def explore(file: str, home: str, answers: str) -> None:
    """Run a sweep and look at it; then look at it again, as if on another day."""
    ran = ftcluster.sweep(file, "budget.trials=4", home=home)
    found = ftcluster.open_sweep(ran.name[:3], home=home)
    trials, curves, runs = (
        found.trials_dataframe(),
        found.curves_dataframe("eval/loss"),
        ftcluster.runs_dataframe(home=home),
    )
    best = found.best()
    assert best is not None
    assert best.result is not None
    Path(answers).write_text(
        json.dumps(
            {
                "shown": repr(found),
                "state": found.state,
                "columns": list(trials.columns),
                "trials": trials[["trial", "state", "step", "eval/loss"]].values.tolist(),
                "tokens": int(trials["tokens"].sum()),
                "curves": curves[["trial", "step", "value"]].values.tolist(),
                "metrics": sorted(set(found.curves_dataframe()["metric"])),
                "runs": sorted(runs["name"]),
                "best": [best.name, best.metrics["eval/loss"], sorted(best.settings), best.result.name],
                "conclusions": found.conclusions(),
                "page": str(found.report()),
            }
        )
    )


def train_one(words: list[str], home: str, answers: str) -> None:
    """Train without a sweep."""
    run = ftcluster.train(*words, home=home)
    Path(answers).write_text(json.dumps([run.name, run.state, run.step, run.settings["optim.lr"], str(run.result)]))
