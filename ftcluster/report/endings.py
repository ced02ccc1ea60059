"""Who ended before the end, and why: trials with the same reason taken together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ftcluster.comparison.findings import Contender
from ftcluster.contracts.trial import RunState
from ftcluster.report.findings import Alike

FAILED = (RunState.FAILED, RunState.KILLED, RunState.INTERRUPTED)
_NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")


def pruned(trials: Iterable[Contender]) -> tuple[Alike, ...]:
    """Those stopped early, by reason, in the order of their steps."""
    stopped = sorted((trial for trial in trials if trial.state is RunState.PRUNED), key=lambda trial: trial.step)
    return _alike((trial, trial.reason or f"stopped early at step {trial.step}") for trial in stopped)


def failed(trials: Sequence[Contender]) -> tuple[Alike, ...]:
    """Those without a usable end, by what they were told, apart from names and numbers in it; the most frequent first.

    A sweep that was put away interrupts its trials; that is no failure of theirs.
    """
    told: dict[str, list[tuple[Contender, str]]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.state in FAILED:
            reason = f"{trial.state}: {_first_line(trial)}"
            told.setdefault(_NUMBER.sub("N", reason.replace(trial.name, "")), []).append((trial, reason))
    groups = sorted(told.values(), key=lambda group: -len(group))
    return tuple(Alike(group[0][1], tuple(trial.name for trial, _ in group)) for group in groups)


def _alike(told: Iterable[tuple[Contender, str]]) -> tuple[Alike, ...]:
    together: dict[str, list[str]] = {}
    for trial, reason in told:
        together.setdefault(reason, []).append(trial.name)
    return tuple(Alike(reason, tuple(names)) for reason, names in together.items())


def _first_line(trial: Contender) -> str:
    return (trial.reason.splitlines() or ["no reason was recorded"])[0]
