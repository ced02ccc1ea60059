"""What people ask of a sweep while it goes on: to pause, to end, to be longer; of one of its trials likewise.

It is written into the sweep's row of the ledger, so it can be asked from wherever the ledger can be reached, and
whoever drives the sweep follows it: now, or the next driver where there is none::

    config["spec"]      what the sweep is; ``extend`` and ``add`` change it
    config["wanted"]    {"sweep": {"state": "pause", "by": "ann@login"}, "trials": {"lr-03": {"state": "stop", ...}}}
"""

from __future__ import annotations

import getpass
import itertools
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftcluster.config.catalog import flat
from ftcluster.config.checks import check
from ftcluster.config.compose import override, to_dict
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.config.values import build
from ftcluster.contracts.trial import NAMED, SEED, RunState
from ftcluster.errors import UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.bundles import apart, check_options, named_values, read_words
from ftcluster.sweep.space import override_words
from ftcluster.training.records import reap

PAUSE, STOP = "pause", "stop"
_DONE = {PAUSE: "paused", STOP: "stopped"}


@dataclass(frozen=True)
class Wanted:
    """``state``: empty (go on), ``pause`` or ``stop``."""

    state: str = ""
    by: str = ""

    @property
    def reason(self) -> str:
        """Such as ``paused by ann@login``."""
        return f"{_DONE[self.state]} by {self.by}" if self.state else ""


@dataclass(frozen=True)
class Control:
    """All that is asked of a sweep and of its trials, by their names."""

    sweep: Wanted = Wanted()
    trials: Mapping[str, Wanted] = field(default_factory=dict)


def check_resumable(row: RunRow) -> None:
    """
    Raises:
        UsageError: the run is no sweep, or has ended.
    """
    if row.kind != "sweep":
        raise UsageError(f"{row.name} is a {row.kind}, not a sweep", remedy="`ftcluster runs` lists sweeps")
    if row.state in (RunState.FINISHED, RunState.KILLED):
        raise UsageError(f"{row.name} is {row.state}; there is nothing to resume", remedy="start a new sweep")


def control(row: RunRow) -> Control:
    """What is asked of a sweep."""
    found = row.config.get("wanted", {})
    trials = {name: Wanted(**wanted) for name, wanted in found.get("trials", {}).items()}
    return Control(Wanted(**found.get("sweep", {})), trials)


def driven(row: RunRow) -> bool:
    """Whether somebody drives a sweep, as far as the ledger knows."""
    return row.state in (RunState.RUNNING, RunState.PAUSED)


def specification(row: RunRow) -> SweepConfig:
    """What a sweep is, with all that was changed since it began."""
    spec: SweepConfig = build(SweepConfig, dict(row.config["spec"]))
    return spec


def unfinished(sweeps: Sequence[RunRow], spec: SweepConfig) -> RunRow | None:
    """The newest of these that was begun with the same file and words, and has not ended; it may have been extended."""
    wanted = {**to_dict(spec), "budget": None}
    rows = [row for row in sweeps if not row.state.ended]
    return next((row for row in reversed(rows) if {**to_dict(specification(row)), "budget": None} == wanted), None)


def begun(home: Path, spec: SweepConfig) -> RunRow | None:
    """``unfinished`` of a home; those whose process is gone are interrupted."""
    with Ledger.open(home) as ledger:
        reap(ledger)
        return unfinished(ledger.runs("sweep"), spec)


def ask(ledger: Ledger, row: RunRow, state: str) -> RunRow:
    """Have a sweep, or one of its trials, pause, stop or (empty) go on.

    Raises:
        UsageError: it has ended, or it is a training of its own.
    """
    if row.kind == "train":
        raise UsageError(
            f"{row.name} is no trial of a sweep", remedy="stop it with Ctrl-C, or by a SIGTERM to its process"
        )
    if row.state.ended:
        raise UsageError(f"{row.name} is {row.state}; there is nothing to {state or 'go on with'}")
    wanted = {"state": state, "by": _caller()} if state else {}

    def change(sweep: RunRow) -> dict[str, Any]:
        known = sweep.config.get("wanted", {})
        if row.kind == "sweep":
            return {**sweep.config, "wanted": {**known, "sweep": wanted}}
        trials = {**known.get("trials", {}), row.name: wanted}
        return {**sweep.config, "wanted": {**known, "trials": {name: each for name, each in trials.items() if each}}}

    return ledger.edit(row.parent or row.name, change)


def respecify(ledger: Ledger, sweep: RunRow, change: Callable[[SweepConfig], SweepConfig]) -> RunRow:
    """Change what a sweep is; one that has ended can be resumed then.

    Raises:
        ConfigError: what ``change`` makes of it cannot be; nothing is changed then.
        UsageError: it is a population, whose members are judged by one another from the beginning.
    """

    if specification(sweep).pruner.name == "pbt":
        raise UsageError(f"{sweep.name} is a population, whose size is settled", remedy="start another sweep")

    def changed(row: RunRow) -> dict[str, Any]:
        return {**row.config, "spec": to_dict(change(specification(row)))}

    row = ledger.edit(sweep.name, changed)
    if row.state.ended:
        ledger.edit(sweep.name, lambda row: {**row.config, "wanted": {}})
        row = ledger.reopen(sweep.name)
    return row


def extended(spec: SweepConfig, trials: int) -> SweepConfig:
    """The same sweep with this many proposed trials in all.

    Raises:
        UsageError: it has as many.
    """
    if trials <= spec.budget.trials:
        raise UsageError(
            f"{spec.name} has budget.trials={spec.budget.trials} already",
            remedy="name a larger number; `ftcluster sweep stop` ends it early",
        )
    return replace(spec, budget=replace(spec.budget, trials=trials))


def with_trial(spec: SweepConfig, base: RunConfig, words: Sequence[str]) -> SweepConfig:
    """The same sweep with one more trial that somebody named by its values: single keys, and options of variants.

    Raises:
        ConfigError: they are none, or do not fit each other.
    """
    name = next(name for number in itertools.count(1) if (name := f"added-{number}") not in spec.always)
    own, others = apart(words, spec)
    check_options(own, spec)
    # As one config, so that paths mean what they mean where they are written.
    values, given = flat(override(base, others)), read_words(words)
    written = override_words({key: values[key] for key in given if key in values})
    longer = replace(spec, always={**spec.always, name: [*own, *written]})
    check(override(base, override_words(named_values(longer, name))))
    return longer


def words_of(trial: RunRow, spec: SweepConfig) -> list[str]:
    """What makes a trial of this sweep, seeds of repeats apart."""
    if name := trial.overrides.get(NAMED):
        return list(spec.always[name])
    return override_words({key: value for key, value in trial.overrides.items() if key != SEED or key in spec.space})


def _caller() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
