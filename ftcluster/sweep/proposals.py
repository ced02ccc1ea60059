"""The next trial of a sweep, from what is known of those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ftcluster.config.compose import to_dict
from ftcluster.config.identity import identity
from ftcluster.errors import FtclusterError
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.study import Observation, propose


def next_trial(
    plan: SweepPlan, folder: Path, trials: Sequence[RunRow], values: Mapping[int, Mapping[int, float]]
) -> tuple[RunRow, str] | None:
    """A trial for the ledger, and why it cannot be trained, if its values make no config; None: there is none left.

    ``values``: trial number -> rung -> metric.
    """
    number, spec = len(trials), plan.spec
    point = propose(
        plan.space,
        spec.sampler.name,
        seed=spec.sampler.seed,
        direction=spec.direction,
        number=number,
        history=[Observation(t.number, t.overrides, t.state, *_latest(values.get(t.number, {}))) for t in trials],
    )
    if point is None:
        return None
    config, problem = plan.base, ""
    try:
        config = plan.trial_config(number, point)
    except FtclusterError as error:
        problem = str(error)
    name = plan.trial_name(number)
    trial = RunRow(
        name=name,
        kind="trial",
        folder=str(folder / name),
        config=to_dict(config),
        overrides=point,
        identity=identity(config),
        parent=plan.name,
        number=number,
    )
    return trial, problem


def _latest(reports: Mapping[int, float]) -> tuple[float | None, int]:
    if not reports:
        return None, 0
    rung = max(reports)
    return reports[rung], rung
