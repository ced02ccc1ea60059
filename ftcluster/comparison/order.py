"""The runs that references stand for (a sweep, run names or ids), in their order by validation metrics alone.

Reads ledger and records; loads no model, so that it is quick.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcluster.comparison.facts import log_keys
from ftcluster.comparison.findings import Comparison, Contender, Curve, flat_config, ranked
from ftcluster.contracts.metric import Metric
from ftcluster.contracts.trial import NAMED
from ftcluster.errors import UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.history import read_metrics

CURVES = ("train/loss", "eval/loss", "eval/exact_match")
LONGEST_CURVE = 300  # points drawn; more are averaged, which no screen can tell


@dataclass(frozen=True)
class Asked:
    """What the references stand for."""

    rows: tuple[RunRow, ...]  # trials and trainings
    sweep: RunRow | None
    metric: str
    direction: str
    space: Mapping[str, Any]


def resolve(ledger: Ledger, references: Sequence[str]) -> Asked:
    """What references stand for.

    Raises:
        UsageError: no such run, several sweeps, or a sweep without trials.
    """
    named = [ledger.find(reference) for reference in references]
    sweeps = [row for row in named if row.kind == "sweep"]
    if len(sweeps) > 1 or (sweeps and len(named) > 1 and named[0].kind != "sweep"):
        names = " and ".join(row.name for row in sweeps)
        raise UsageError(f"one sweep at a time, and first: {names}", remedy="name the trials of the others instead")
    rows: dict[str, RunRow] = {}
    for row in named:
        members = ledger.runs(parent=row.name) if row.kind == "sweep" else [row]
        rows |= {member.name: member for member in members}
    if not rows:
        raise UsageError("there is nothing to compare yet", remedy="name a sweep with trials, or some runs")
    sweep = sweeps[0] if sweeps else None
    spec = sweep.config["spec"] if sweep else {}
    metric, direction = spec.get("metric", "eval/loss"), spec.get("direction", "minimize")
    return Asked(tuple(rows.values()), sweep, str(metric), str(direction), spec.get("space", {}))


def in_order(ledger: Ledger, asked: Asked, *, now: float) -> Comparison:
    """The runs, the best first; nothing is measured, and their data may differ."""
    contenders = _contenders(asked, _rungs(ledger, asked))
    return Comparison(
        title=asked.sweep.name if asked.sweep else ", ".join(row.name for row in asked.rows),
        name=asked.sweep.name if asked.sweep else "",
        metric=asked.metric,
        direction=asked.direction,
        contenders=tuple(ranked(contenders, asked.direction)),
        base=None,
        log_keys=log_keys(asked.space, contenders),
        made_at=now,
    )


def _rungs(ledger: Ledger, asked: Asked) -> dict[str, Curve]:
    """The metric at each rung, by the name of the run."""
    found: dict[str, list[tuple[int, float]]] = {row.name: [] for row in asked.rows}
    for parent in dict.fromkeys(row.parent or row.name for row in asked.rows):
        for report in ledger.reports(parent):
            if asked.metric in report.metrics and report.run in found:
                found[report.run].append((report.step, report.metrics[asked.metric]))
    return {name: tuple(curve) for name, curve in found.items()}


def _contenders(asked: Asked, rungs: Mapping[str, Curve]) -> list[Contender]:
    flat = {row.name: _flat(row) for row in asked.rows}
    keys = _varied(asked, flat)
    swept: dict[str | None, set[str]] = {}
    for row in asked.rows:
        swept.setdefault(row.parent, set()).update(row.overrides)
    return [
        _contender(row, asked.metric, flat[row.name], _parameters(row, keys, flat[row.name], swept), rungs[row.name])
        for row in asked.rows
    ]


def _parameters(
    row: RunRow, keys: Sequence[str], flat: Mapping[str, Any], swept: Mapping[str | None, set[str]]
) -> dict[str, Any]:
    """A run's value of each key; None where its sweep varies the key and this trial had no use for it."""
    proposed = row.kind == "trial" and NAMED not in row.overrides
    without = swept[row.parent] - set(row.overrides) if proposed else ()
    return {key: None if key in without else row.overrides.get(key, flat.get(key)) for key in keys}


def _flat(row: RunRow) -> dict[str, Any]:
    """A run's config; of a trial whose values made none, its sweep's with those values."""
    flat = flat_config(row.config)
    return flat | {key: value for key, value in row.overrides.items() if key in flat}


def _contender(
    row: RunRow, metric: str, flat: dict[str, Any], parameters: Mapping[str, Any], rungs: Curve
) -> Contender:
    history = read_metrics(Path(row.folder))
    metrics = dict(row.metrics) or {name: points[-1].value for name, points in history.items() if _held_out(name)}
    speed = [point.value for point in history.get("train/tokens_per_s", ())]
    return Contender(
        name=row.name,
        number=row.number,
        state=row.state,
        reason=row.reason,
        step=row.step or max((points[-1].step for points in history.values()), default=0),
        folder=row.folder,
        parameters=parameters,
        config=flat,
        metrics={name: value for name, value in metrics.items() if _held_out(name)},
        score=metrics.get(metric),
        tokens_per_s=statistics.median(speed) if speed else None,
        seconds=row.ended_at - row.started_at if row.ended_at and row.started_at else None,
        curves={name: thinned(history[name]) for name in dict.fromkeys((*CURVES, metric)) if name in history},
        rungs=rungs,
    )


def _held_out(name: str) -> bool:
    return name.startswith(("eval/", "trial/"))


def _varied(asked: Asked, flat: Mapping[str, dict[str, Any]]) -> list[str]:
    """A sweep's own keys, in its order; for runs of their own, whatever their configs do not share."""
    searched = dict.fromkeys(key for row in asked.rows for key in row.overrides if row.kind == "trial")
    plain = not asked.sweep or len({row.parent for row in asked.rows}) > 1
    every = dict.fromkeys(key for config in flat.values() for key in config) if plain else {}
    first = next(iter(flat.values()))
    differing = [key for key in every if any(config.get(key) != first.get(key) for config in flat.values())]
    return list(dict.fromkeys([*(searched if asked.sweep else ()), *differing]))


def thinned(points: Sequence[Metric]) -> Curve:
    """At most ``LONGEST_CURVE`` points: means of neighbours, at the step of the last of them."""
    size = -(-len(points) // LONGEST_CURVE)
    groups = (points[at : at + size] for at in range(0, len(points), size or 1))
    return tuple((group[-1].step, statistics.fmean(point.value for point in group)) for group in groups)
