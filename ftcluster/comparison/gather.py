"""From references (a sweep, run names or ids) to a ``Comparison``: what ran, what the best left, how they differ.

    ledger rows -> contenders ranked by the validation metric -> test records of the first few and of the base
                -> differences to the base and to the first, with intervals

The order is made from validation metrics alone; test rows are read after it is fixed, and change nothing in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcluster.comparison.facts import facts_of, log_keys
from ftcluster.comparison.findings import Comparison, Contender, Curve, Differences, flat_config, ranked
from ftcluster.config.compose import from_dict
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.metric import Metric
from ftcluster.data.prepared.folder import PreparedData, open_prepared
from ftcluster.errors import DataError, UsageError
from ftcluster.evaluation.bootstrap import loss_difference, match_difference
from ftcluster.evaluation.record import TestLimits, base_record, record_of
from ftcluster.evaluation.subject import SharedBase, has_result
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.history import read_metrics

CURVES = ("train/loss", "eval/loss", "eval/exact_match")
LONGEST_CURVE = 300  # points drawn; more are averaged, which no screen can tell
Announce = Callable[[str, int, int], None]  # what is measured now, how many are done, of how many


@dataclass(frozen=True)
class _Asked:
    """What the references stand for."""

    rows: tuple[RunRow, ...]  # trials and trainings
    sweep: RunRow | None
    metric: str
    direction: str
    space: Mapping[str, Any]


def gather(
    ledger: Ledger,
    references: Sequence[str],
    *,
    top: int = 3,
    limits: TestLimits | None = None,
    announce: Announce = lambda *_: None,
    now: float = 0.0,
) -> Comparison:
    """Compare the trials of a sweep, or any runs, and test the best ``top`` of them (all, where runs are named).

    Raises:
        UsageError: nothing to compare, or a reference that is no run.
        DataError: runs trained on different data.
        StoreError: the prepared data is gone.
    """
    asked = _resolve(ledger, references)
    configs = {row.name: from_dict(dict(row.config)) for row in asked.rows}
    contenders = _contenders(asked, {row.name: _rungs(ledger, row, asked.metric) for row in asked.rows})
    prepared = _shared_data(asked.rows)
    found = Comparison(
        title=asked.sweep.name if asked.sweep else ", ".join(row.name for row in asked.rows),
        name=asked.sweep.name if asked.sweep else "",
        metric=asked.metric,
        direction=asked.direction,
        contenders=tuple(ranked(contenders, asked.direction)),
        base=None,
        log_keys=log_keys(asked.space, contenders),
        made_at=now,
    )
    if prepared is None:
        return found
    count = top if asked.sweep else len(asked.rows)
    tested = _test(found, configs, prepared, max(top, count), limits or TestLimits(), announce)
    return replace(tested, facts=facts_of(tested, prepared, configs))


def _resolve(ledger: Ledger, references: Sequence[str]) -> _Asked:
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
    return _Asked(tuple(rows.values()), sweep, str(metric), str(direction), spec.get("space", {}))


def _rungs(ledger: Ledger, row: RunRow, metric: str) -> Curve:
    return tuple((r.step, r.metrics[metric]) for r in ledger.reports(row.name) if metric in r.metrics)


def _contenders(asked: _Asked, rungs: Mapping[str, Curve]) -> list[Contender]:
    flat = {row.name: flat_config(row.config) for row in asked.rows}
    keys = _varied(asked, flat)
    return [_contender(row, asked.metric, flat[row.name], keys, rungs[row.name]) for row in asked.rows]


def _contender(row: RunRow, metric: str, flat: dict[str, Any], keys: Sequence[str], rungs: Curve) -> Contender:
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
        parameters={key: row.overrides.get(key, flat.get(key)) for key in keys},  # a refused trial has no config
        config=flat,
        metrics={name: value for name, value in metrics.items() if _held_out(name)},
        score=metrics.get(metric),
        tokens_per_s=statistics.median(speed) if speed else None,
        seconds=row.ended_at - row.started_at if row.ended_at and row.started_at else None,
        curves={name: thinned(history[name]) for name in dict.fromkeys((*CURVES, metric)) if name in history},
        rungs=rungs,
    )


def _held_out(name: str) -> bool:
    return name.startswith("eval/")


def _varied(asked: _Asked, flat: Mapping[str, dict[str, Any]]) -> list[str]:
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


def _shared_data(rows: Sequence[RunRow]) -> PreparedData | None:
    """The data all of them were trained on, None while nobody has started.

    Raises:
        DataError: naming two runs of different data, and both data.
    """
    folders = {row.name: str(RunFolder(Path(row.folder)).read_facts().get("prepared", "")) for row in rows}
    known = [(name, Path(folder)) for name, folder in folders.items() if folder]
    if not known:
        return None
    first, folder = known[0]
    for name, other in known:
        if other.name != folder.name:
            raise DataError(
                f"{first} was trained on data {folder.name[:12]}, {name} on data {other.name[:12]}: "
                "their held-out rows are not the same, so their numbers cannot be compared",
                where="comparison",
                remedy="compare runs of one data set, tokenizer and objective; ftcluster runs show NAME tells which",
            )
    return open_prepared(folder)


def _test(
    found: Comparison,
    configs: Mapping[str, RunConfig],
    prepared: PreparedData,
    top: int,
    limits: TestLimits,
    announce: Announce,
) -> Comparison:
    """Add the base's record, those of the first ``top``, and what they differ by."""
    chosen = [c for c in found.contenders if c.score is not None and has_result(RunFolder(Path(c.folder)))][:top]
    bases = _bases([configs[c.name] for c in chosen] or list(configs.values())[:1], prepared.chat_template)
    limits = replace(limits, max_new_tokens=max(config.evaluation.max_new_tokens for config in configs.values()))
    announce("base", 0, len(chosen) + 1)
    base = base_record(bases[0], prepared, limits=limits) if len(bases) == 1 else None
    records: dict[str, TestRecord] = {}
    for done, contender in enumerate(chosen, 1):
        announce(contender.name, done, len(chosen) + 1)
        folder = RunFolder(Path(contender.folder))
        mine = next(b for b in bases if str(b.folder) == configs[contender.name].model.path)
        records[contender.name] = record_of(folder, mine, prepared, name=contender.name, limits=limits)
    announce("", len(chosen) + 1, len(chosen) + 1)
    best = records.get(chosen[0].name) if chosen else None
    judged = tuple(_judged(c, records.get(c.name), base, best) for c in found.contenders)
    return replace(found, contenders=judged, base=base)


def _bases(configs: Sequence[RunConfig], template: str | None) -> list[SharedBase]:
    """One per base model; all with the first run's arithmetic, so that records can be compared."""
    models = {config.model.path: config.model for config in configs}
    return [SharedBase(model, configs[0].engine, template) for model in models.values()]


def _judged(
    contender: Contender, record: TestRecord | None, base: TestRecord | None, best: TestRecord | None
) -> Contender:
    if record is None:
        return contender
    return replace(
        contender,
        record=record,
        against_base=_differences(record, base) if base else None,
        against_best=_differences(record, best) if best and best.subject != record.subject else None,
    )


def _differences(record: TestRecord, reference: TestRecord) -> Differences:
    return Differences(reference.subject, loss_difference(record, reference), match_difference(record, reference))
