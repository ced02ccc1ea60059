"""Sweeps for reports, made by hand in a real ledger: any number of trials, without training them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ftcluster.config.schema import RunConfig, SweepConfig, TrackingConfig
from ftcluster.config.values import to_dict
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.timeline import FILE, Span
from ftcluster.tracking.spool import SpoolTracker

SPACE = {"optim.lr": "tag(log, interval(1e-4, 1e-1))", "adapter.rank": "choice(4, 8, 16)"}
START = 1_760_000_000.0
WHOLE = 40  # steps of a trial that is not stopped


@dataclass(frozen=True)
class Trial:
    """``values`` are those of the metric at steps 10, 20, 40."""

    overrides: Mapping[str, Any]
    values: Sequence[float] = ()
    state: RunState = RunState.FINISHED
    reason: str = ""
    seconds: tuple[float, float] | None = None  # on a host, since the start
    host: str = "host 0"
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)  # further ones, of each report


def make_sweep(
    home: Path,
    trials: Sequence[Trial],
    *,
    name: str = "made",
    end: RunState | None = RunState.FINISHED,
    mlflow: str = "",
    **spec: Any,
) -> str:
    """A sweep of these trials in the ledger of a home; ``end`` None: it still runs."""
    base = to_dict(RunConfig(home=str(home), tracking=TrackingConfig(uri=mlflow)))
    described = to_dict(SweepConfig(name=name, **{"space": SPACE, **spec}))
    folder = home / name
    with Ledger.open(home, clock=lambda: START) as ledger:
        ledger.add(RunRow(name, "sweep", str(folder), {"spec": described, "base": base, "prepared": ""}))
        tracker = SpoolTracker(folder, clock=lambda: START)
        tracker.state(RunState.RUNNING)
        tracker.close()
        ledger.set_state(name, RunState.RUNNING)
        for number, trial in enumerate(trials):
            _add(
                ledger,
                RunRow(
                    f"{name}-{number:03}",
                    "trial",
                    str(folder / f"{name}-{number:03}"),
                    _config(base, trial),
                    dict(trial.overrides),
                    parent=name,
                    number=number,
                ),
                trial,
            )
        if end:
            ledger.set_state(name, end)
    spans = [_span(f"{name}-{number:03}", trial) for number, trial in enumerate(trials) if trial.seconds]
    (folder / FILE).write_text("".join(json.dumps(asdict(span)) + "\n" for span in spans))
    return name


def _config(base: Mapping[str, Any], trial: Trial) -> dict[str, Any]:
    config = json.loads(json.dumps(base))
    for key, value in {**trial.overrides, **trial.config}.items():
        if key == "named":
            continue
        group, _, last = key.rpartition(".")
        (config[group] if group else config)[last] = value
    return config


def _add(ledger: Ledger, row: RunRow, trial: Trial) -> None:
    ledger.add(row)
    folder = RunFolder(Path(row.folder))
    tracker = SpoolTracker(folder.path, clock=lambda: START)
    folder.write_facts({"total_steps": WHOLE})
    if trial.state is not RunState.WAITING:
        ledger.set_state(row.name, RunState.RUNNING)
    for rung, value in enumerate(trial.values):
        step = 10 * 2**rung
        metrics = {"eval/loss": value, **trial.metrics}
        ledger.record(TrialReport(row.name, step, metrics, tokens=100 * step, seconds=float(step)), rung)
        tracker.metrics({"eval/loss": value}, step)
    tracker.close()
    if trial.state not in (RunState.WAITING, RunState.RUNNING):
        ledger.set_state(row.name, trial.state, reason=trial.reason)


def _span(name: str, trial: Trial) -> Span:
    assert trial.seconds
    began, ended = (START + at for at in trial.seconds)
    return Span(name, 0, trial.host, ("node",), 0.5, began, ended, "reported")


def valley(rate: float, noise: float = 0.0) -> float:
    """A loss that is best at a rate of 0.006 and depends on nothing else."""
    return 1.0 + (math.log10(rate) + 2.2) ** 2 + noise


def searched(count: int, *, seed: int = 0, noise: float = 0.05) -> list[Trial]:
    """Random trials of the valley, halved twice: a quarter finishes."""
    draw = np.random.default_rng(seed)
    points = [
        {"optim.lr": float(10 ** draw.uniform(-4, -1)), "adapter.rank": int(draw.choice([4, 8, 16]))}
        for _ in range(count)
    ]
    losses = [valley(point["optim.lr"], noise * float(draw.normal())) for point in points]
    order = sorted(range(count), key=losses.__getitem__)
    trials = []
    for number, (point, loss) in enumerate(zip(points, losses, strict=True)):
        reached = 3 - (order.index(number) >= count // 4) - (order.index(number) >= count // 2)
        finished = reached == 3
        trials.append(
            Trial(
                point,
                [loss + 0.5, loss + 0.2, loss][:reached],
                RunState.FINISHED if finished else RunState.PRUNED,
                "" if finished else f"below the cut after step {10 * 2 ** (reached - 1)}",
                seconds=(5.0 * (number // 4), 5.0 * (number // 4) + 4.0),
                host=f"host {number % 4}",
            )
        )
    return trials
