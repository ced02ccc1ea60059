"""From a sweep's ledger, records and timeline to a ``SweepReport``. Reads; changes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcluster.comparison.facts import recorded_tags
from ftcluster.comparison.findings import Comparison, Contender, Curve
from ftcluster.comparison.order import in_order, resolve
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import NAMED, SEED, RunState
from ftcluster.errors import UsageError
from ftcluster.ledger.schema import ReportRow, RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.report import endings
from ftcluster.report.findings import PAGE, Foretold, Rung, SweepReport, Usage
from ftcluster.report.influence import influence
from ftcluster.report.settings import settings
from ftcluster.report.usage import usage
from ftcluster.sweep import prediction, timeline
from ftcluster.sweep.spending import GPU, price_of, spent
from ftcluster.tracking.records import SPOOL, read_lines

_ALIKE = 1.01  # tokens a step of one trial against another's, up to which steps say what tokens say


def gather(ledger: Ledger, reference: str, *, price: float | None = None, now: float) -> SweepReport:
    """What there is to say about a sweep now, whether it goes on or has ended.

    ``price`` of a GPU-hour; None: what the sweep says itself.

    Raises:
        UsageError: it is no sweep, or has no trials yet.
    """
    row = ledger.find(reference)
    if row.kind != "sweep":
        raise UsageError(f"{row.name} is a {row.kind}, not a sweep", remedy="`ftcluster runs` lists sweeps")
    comparison = in_order(ledger, resolve(ledger, [row.name]), now=now)
    reports = _by_trial(ledger.reports(row.name))
    trials = comparison.contenders
    rung = _rung(reports, comparison.metric)
    judged = [trial for trial in trials if trial.name in rung.values]
    keys = tuple(key for key in comparison.varied if key not in (SEED, NAMED))
    used = _usage(row, comparison, price)
    return SweepReport(
        comparison=comparison,
        state=row.state,
        reason=row.reason,
        settings=settings(comparison),
        rung=rung,
        influence=influence(
            [{key: trial.parameters[key] for key in keys} for trial in judged],
            [rung.values[trial.name] for trial in judged],
            comparison.log_keys,
            direction=comparison.direction,
        ),
        tokens=_tokens(reports, comparison.metric),
        pruned=endings.pruned(trials),
        failed=endings.failed(trials),
        steps=sum(trial.step for trial in trials),
        steps_whole=_whole(trials),
        keys=keys,
        also=row.config.get("spec", {}).get("also", {}),
        usage=used,
        foretold=_foretold(row, used),
    )


def _by_trial(reports: Sequence[ReportRow]) -> dict[str, list[ReportRow]]:
    found: dict[str, list[ReportRow]] = {}
    for report in reports:
        found.setdefault(report.run, []).append(report)
    return found


def _rung(reports: Mapping[str, Sequence[ReportRow]], metric: str) -> Rung:
    """Of the rungs that most trials have a value at, the last; later ones have only those that were good before."""
    values: dict[int, dict[str, tuple[int, float]]] = {}
    for name, told in reports.items():
        for report in told:
            value = report.metrics.get(metric, math.nan)
            if math.isfinite(value):
                values.setdefault(report.rung, {})[name] = (report.step, value)
    if not values:
        return Rung(0, {})
    chosen = values[max(values, key=lambda rung: (len(values[rung]), rung))]
    step = Counter(step for step, _ in chosen.values()).most_common(1)[0][0]
    return Rung(step, {name: value for name, (_, value) in chosen.items()})


def _tokens(reports: Mapping[str, Sequence[ReportRow]], metric: str) -> dict[str, Curve]:
    pace = [told[0].tokens / told[0].step for told in reports.values() if told[0].step and told[0].tokens]
    if not pace or max(pace) < _ALIKE * min(pace):
        return {}
    return {
        name: tuple((report.tokens, report.metrics[metric]) for report in told if metric in report.metrics)
        for name, told in reports.items()
    }


def _whole(trials: Sequence[Contender]) -> int:
    """Steps of those that were trained at all, had each gone to its end."""
    begun = [RunFolder(Path(trial.folder)).read_facts().get("total_steps", 0) for trial in trials if trial.step]
    return sum(begun) if all(begun) else 0


def _usage(row: RunRow, comparison: Comparison, price: float | None) -> Usage:
    """``price`` of a GPU-hour; None: what the sweep's budget says, which may have counted money itself."""
    folder = Path(row.folder)
    name = recorded_tags(folder).get("gpu", "").split(", ")[0]
    gpus = {trial.name: _gpus(trial.config, on_gpus=bool(name)) for trial in comparison.contenders}
    counted = spent(row)
    if price is None:
        prices = row.config.get("spec", {}).get("budget", {}).get("price", {})
        price = price_of(prices, name or (GPU if any(gpus.values()) else ""))
    else:
        price, counted = price if any(gpus.values()) else 0.0, replace(counted, money=0.0)
    return replace(usage(timeline.read(folder), _starts(folder), gpus, price), spent=counted)


def _foretold(row: RunRow, used: Usage) -> Foretold | None:
    """None where nothing was foretold, or the sweep has not ended or rested between two drivers."""
    folder = Path(row.folder)
    made = prediction.read(folder)
    if made is None or not row.ended_at or not row.started_at or len(_starts(folder)) != 1:
        return None
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / PAGE)
    return Foretold(made, row.ended_at - row.started_at, used.host_hours, sum(path.stat().st_size for path in files))


def _gpus(config: Mapping[str, Any], *, on_gpus: bool) -> float:
    """Of each rank; -1 means one where there are any."""
    wanted = float(config.get("cluster.gpus", -1.0))
    return wanted if wanted >= 0 else float(on_gpus)


def _starts(folder: Path) -> list[float]:
    """When drivers of a sweep began, in unix seconds."""
    lines = (line.record for line in read_lines(folder / SPOOL))
    return [line["t"] / 1000 for line in lines if (line.get("kind"), line.get("state")) == ("state", RunState.RUNNING)]
