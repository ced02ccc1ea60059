"""A trial goes on from the state of another one: its checkpoint is taken over, then its settings.

Written so that it can be done again after a kill: the ledger is changed last, and a trial whose settings are changed
already is left alone. Until all forks of a rung are done nobody trains further, so the other's state is still there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from ftcluster.config.compose import to_dict
from ftcluster.config.identity import identity
from ftcluster.contracts.folder import RunFolder
from ftcluster.engine import checkpoint
from ftcluster.ledger.schema import RunRow
from ftcluster.sweep.facts import Facts
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.population import changed
from ftcluster.sweep.space import override_words
from ftcluster.tracking.spool import SpoolTracker


def fork_all(facts: Facts, plan: SweepPlan, forks: Mapping[int, int]) -> None:
    """Have trials go on from where others are, by their numbers, with settings a little changed.

    Raises:
        StoreError: something could not be written, or another one's checkpoint is not there.
    """
    trials = facts.trials
    for number, other in forks.items():
        _fork(facts, plan, trials[number], trials[other])


def _fork(facts: Facts, plan: SweepPlan, trial: RunRow, other: RunRow) -> None:
    rung = other.rung or 0
    point = changed(plan.space, other.overrides, plan.spec.sampler.seed, trial.number, rung)
    if trial.overrides == point or trial.rung != other.rung:
        return
    config = plan.trial_config(trial.number, plan.space.words(point))
    source = RunFolder(Path(other.folder)).checkpoints / checkpoint.name_of(other.step)

    def write(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(checkpoint.MANIFEST))

    checkpoint.commit(RunFolder(Path(trial.folder)).checkpoints, other.step, write)
    settings = " ".join(override_words(point))
    with closing(SpoolTracker(Path(trial.folder))) as tracker:
        tracker.tags({f"ftcluster.forked.{other.step}": f"from {other.name}, then {settings}"})
        tracker.flush()
    facts.set_state(trial.name, trial.state, config=to_dict(config), overrides=point, identity=identity(config))
