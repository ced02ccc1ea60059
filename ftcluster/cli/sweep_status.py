"""``ftcluster sweep list | status | watch``: how sweeps stand, from any machine that reaches their home."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftcluster.cli.arguments import Home, Json
from ftcluster.cli.output import console, print_json, table
from ftcluster.cli.sweep_control import Sweep, find_sweep
from ftcluster.config.environment import default_home

if TYPE_CHECKING:
    from ftcluster.ledger.schema import RunRow
    from ftcluster.ledger.store import Ledger

_PAUSE = 1.0  # seconds between looks


def list_sweeps(home: Home = None, as_json: Json = False) -> None:
    """List the sweeps of a home: how far they are, their best trial, who drives them."""
    from ftcluster.ledger.store import Ledger
    from ftcluster.training.records import reap

    with Ledger.open(home or default_home()) as ledger:
        reap(ledger)
        found = [_facts(row, ledger) for row in ledger.runs("sweep")]
    if as_json:
        print_json(found)
    elif not found:
        console().print("no sweeps yet; ftcluster demo makes one")
    else:
        names = ("sweep", "state", "trials", "best", "value", "driven by", "why")
        table(names, [_line(each) for each in found])


def status(name: Sweep, home: Home = None, as_json: Json = False) -> None:
    """How a sweep stands: its trials, who drives it, why trials failed."""
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.spending import spent
    from ftcluster.sweep.standing import standing
    from ftcluster.sweep.view import table as trials_table
    from ftcluster.training.records import reap

    with Ledger.open(home or default_home()) as ledger:
        reap(ledger)
        row = find_sweep(ledger, name)
        facts, reasons = _facts(row, ledger), _reasons(ledger.runs(parent=row.name))
        lines, overview = standing(ledger, row, time.time())
    if as_json:
        left = {"seconds": overview.elapsed_s, "seconds_left": overview.eta_s, "spent": spent(row)}
        print_json({**facts, **left, "failures": reasons, "each": lines})
        return
    console().print(trials_table(lines, overview))
    driven = f", driven by {facts['driver']}" if facts["driver"] else ""
    console().print(f"{facts['state']}{driven}{f': {row.reason}' if row.reason else ''}", markup=False)
    for reason, count in reasons.items():
        console().print(f"{count} failed: {reason}", markup=False, soft_wrap=True)


def watch(
    name: Sweep,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = _PAUSE,
    home: Home = None,
) -> None:
    """Watch a sweep from wherever its home can be read, until it ends: a live table, or lines where there is no
    terminal. Ctrl-C ends watching, not the sweep."""
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.standing import standing
    from ftcluster.sweep.view import View
    from ftcluster.training.records import reap

    with Ledger.open(home or default_home()) as ledger, View(console()) as view:
        row = find_sweep(ledger, name)
        while True:
            reap(ledger)
            row = ledger.get(row.name)
            view.show(*standing(ledger, row, time.time()))
            if row.owner is None or row.state.value not in ("running", "paused"):
                break
            time.sleep(every)
    console().print(f"{row.name} is {row.state}{f': {row.reason}' if row.reason else ''}", markup=False)


def _facts(row: RunRow, ledger: Ledger) -> dict[str, Any]:
    from ftcluster.ledger.ranking import best_trial
    from ftcluster.sweep.control import control, specification
    from ftcluster.sweep.view import in_words

    spec, trials = specification(row), ledger.runs(parent=row.name)
    best = best_trial(trials, spec.metric, spec.direction, spec.repeats)
    return {
        "sweep": row.name,
        "state": row.state.value,
        "asked": control(row).sweep.state,
        "trials": {state.value: count for state, count in Counter(trial.state for trial in trials).items()},
        "ended": sum(trial.state.ended for trial in trials),
        "proposed at most": spec.budget.trials,
        "best": best.name if best else None,
        "value": best.metrics[spec.metric] if best else None,
        "settings": in_words(best.overrides) if best else "",
        "driver": str(row.owner) if row.owner and row.state.value in ("running", "paused") else "",
        "reason": row.reason,
        "folder": row.folder,
    }


def _line(facts: dict[str, Any]) -> Sequence[object]:
    ended = f"{facts['ended']}/{max(facts['proposed at most'], sum(facts['trials'].values()))}"
    best = f"{facts['best']}  {facts['settings']}" if facts["best"] else None
    return facts["sweep"], facts["state"], ended, best, facts["value"], facts["driver"], facts["reason"]


def _reasons(trials: Iterable[RunRow]) -> dict[str, int]:
    """Why trials failed, and how many did so; alike but for their names is alike."""
    from ftcluster.sweep.ending import cause

    failed = [trial for trial in trials if trial.state.value == "failed"]
    told = Counter(cause(trial.name, trial.reason) for trial in failed)
    return dict(told.most_common())
