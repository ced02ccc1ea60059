"""What earlier sweeps of a home know about the points of a new one.

Read once, before the new sweep begins, and kept with it: an earlier sweep that goes on meanwhile changes nothing.
"""

from __future__ import annotations

import math
from pathlib import Path

from ftcluster.config.catalog import flat
from ftcluster.config.compose import from_dict, resolve_home
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.contracts.trial import RunState
from ftcluster.data.prepared.folder import PreparedData, open_prepared
from ftcluster.errors import StoreError, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.comparable import held_out
from ftcluster.sweep.observation import Observation
from ftcluster.sweep.space import Space


def earlier(spec: SweepConfig, base: RunConfig, space: Space, data: PreparedData, rungs: int) -> list[Observation]:
    """The trials of ``sampler.warm_start`` that lie in the space, with numbers below 0.

    Raises:
        UsageError: no such sweep, or its values mean something else.
    """
    if not spec.sampler.warm_start:
        return []
    with Ledger.open(resolve_home(base)) as ledger:
        sweeps = [ledger.find(name) for name in spec.sampler.warm_start]
        for sweep in sweeps:
            _check(sweep, spec, data)
        rows = [row for sweep in sweeps for row in ledger.runs(parent=sweep.name)]
    found = [seen for place, row in enumerate(rows, -len(rows)) if (seen := _seen(row, spec, space, rungs, place))]
    if not found:
        raise _refused(", ".join(spec.sampler.warm_start), "no trial of it has a result within the space")
    return found


def _check(sweep: RunRow, spec: SweepConfig, data: PreparedData) -> None:
    told = sweep.config.get("spec", {})
    if sweep.kind != "sweep":
        raise _refused(sweep.name, f"it is a {sweep.kind}, not a sweep")
    if told.get("metric") != spec.metric:
        raise _refused(sweep.name, f"its metric is {told.get('metric')}, not {spec.metric}")
    prepared = data.folder.parent / Path(str(sweep.config["prepared"])).name
    if prepared == data.folder:
        return
    try:
        same = held_out(open_prepared(prepared), spec.metric) == held_out(data, spec.metric)
    except StoreError as error:
        raise _refused(sweep.name, "the data it was judged on is gone") from error
    if not same:
        raise _refused(sweep.name, f"its {spec.metric} was measured on other held-out rows")


def _seen(row: RunRow, spec: SweepConfig, space: Space, rungs: int, number: int) -> Observation | None:
    values = [row.metrics.get(metric, math.nan) for metric in (spec.metric, *spec.also)]
    if row.state not in (RunState.FINISHED, RunState.PRUNED) or not all(map(math.isfinite, values)):
        return None
    point = space.located(flat(from_dict(row.config)))
    # Its rungs may have been others: what finished counts as such, what was pruned as less.
    rung = rungs - 1 if row.state is RunState.FINISHED else min(row.rung or 0, rungs - 2)
    if point is None:
        return None
    return Observation(number, point, row.state, values[0], rung, tuple(values[1:]))


def _refused(name: str, why: str) -> UsageError:
    remedy = "leave it out, or name a sweep of the same metric and held-out rows"
    return UsageError(f"{name} cannot be learned from: {why}", where="sampler.warm_start", remedy=remedy)
