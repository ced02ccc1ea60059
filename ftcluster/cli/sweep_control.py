"""``ftcluster sweep pause | stop | extend | add | clone``: change a sweep or one of its trials while it goes on.

They write into the ledger; whoever drives the sweep follows within a second. ``resume`` is beside ``run``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftcluster.cli.arguments import Home, Overrides
from ftcluster.cli.complete import complete_run
from ftcluster.cli.output import console
from ftcluster.config.environment import default_home, home_option
from ftcluster.errors import UsageError

if TYPE_CHECKING:
    from ftcluster.ledger.schema import RunRow
    from ftcluster.ledger.store import Ledger

SweepOrTrial = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP|TRIAL", autocompletion=complete_run, help="A sweep or one of its trials; a beginning will do."
    ),
]
Sweep = Annotated[
    str, typer.Argument(metavar="SWEEP", autocompletion=complete_run, help="Its name, or the beginning of it.")
]


def pause(name: SweepOrTrial, home: Home = None) -> None:
    """Let a sweep, or one of its trials, save and rest. A sweep's driver stays and frees its GPUs.

    [bold]Examples[/bold]

      ftcluster sweep pause my-sweep

      ftcluster sweep pause my-sweep-03 && ftcluster sweep resume my-sweep-03
    """
    from ftcluster.sweep.control import PAUSE

    _ask(name, home, PAUSE)


def stop(name: SweepOrTrial, home: Home = None) -> None:
    """End a sweep, or one of its trials, for good. What runs is saved; the best so far is kept."""
    from ftcluster.sweep.control import STOP

    _ask(name, home, STOP)


def extend(
    name: Sweep,
    trials: Annotated[int, typer.Option("--trials", min=1, help="How many trials it is to propose in all.")],
    home: Home = None,
) -> None:
    """Have a sweep try more, also one that has ended: ftcluster sweep extend SWEEP --trials 40."""
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.control import extended, respecify

    with Ledger.open(home or default_home()) as ledger:
        row = find_sweep(ledger, name)
        row = respecify(ledger, row, lambda spec: extended(spec, trials))
        tell_asked(row, f"has up to {trials} proposed trials", home)


def add(name: Sweep, overrides: Overrides = None, home: Home = None) -> None:
    """Have a sweep try certain values, next: ftcluster sweep add SWEEP optim.lr=1e-3 adapter.rank=8."""
    from ftcluster.ledger.store import Ledger

    with Ledger.open(home or default_home()) as ledger:
        _add(ledger, find_sweep(ledger, name), overrides or [], home)


def clone(
    name: Annotated[str, typer.Argument(metavar="TRIAL", autocompletion=complete_run, help="The trial to begin with.")],
    overrides: Overrides = None,
    home: Home = None,
) -> None:
    """Have a sweep try the values of one of its trials with some changed: ftcluster sweep clone TRIAL optim.lr=1e-3."""
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.control import specification, words_of

    with Ledger.open(home or default_home()) as ledger:
        trial = ledger.find(name)
        if trial.parent is None:
            raise UsageError(f"{trial.name} is no trial of a sweep", remedy="`ftcluster runs SWEEP` lists trials")
        sweep, changed = ledger.get(trial.parent), {word.partition("=")[0] for word in overrides or []}
        kept = [word for word in words_of(trial, specification(sweep)) if word.partition("=")[0] not in changed]
        _add(ledger, sweep, [*kept, *(overrides or [])], home)


def _add(ledger: Ledger, sweep: RunRow, words: list[str], home: Path | None) -> None:
    from ftcluster.config.compose import from_dict
    from ftcluster.sweep.control import respecify, with_trial

    if not words:
        raise UsageError("no values to try", remedy="name some, such as optim.lr=1e-3")
    base = from_dict(sweep.config["base"])
    row = respecify(ledger, sweep, lambda spec: with_trial(spec, base, words))
    tell_asked(row, f"{sweep.name} tries {' '.join(words)}", home)


def _ask(name: str, home: Path | None, state: str) -> None:
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.control import STOP, ask, driven
    from ftcluster.training.records import reap

    with Ledger.open(home or default_home()) as ledger:
        reap(ledger)
        row = ledger.find(name)
        sweep = ask(ledger, row, state)
        if state == STOP and row.kind == "sweep" and not driven(sweep):
            from ftcluster.sweep.launch import end_sweep

            sweep = end_sweep(sweep, ledger)
            console().print(f"{sweep.name} is {sweep.state}: {sweep.reason}", markup=False)
        else:
            tell_asked(sweep, f"{row.name} is asked to {state}", home)


def find_sweep(ledger: Ledger, name: str) -> RunRow:
    """The sweep a user means."""
    row = ledger.find(name)
    if row.kind != "sweep":
        raise UsageError(f"{row.name} is a {row.kind}, not a sweep", remedy="`ftcluster sweep list` lists sweeps")
    return row


def tell_asked(sweep: RunRow, what: str, home: Path | None) -> None:
    """What was done, and what comes next: somebody drives the sweep, or nobody does."""
    from ftcluster.sweep.control import driven

    verb, where = ("watch", f"driven by {sweep.owner}") if driven(sweep) else ("resume", "nobody drives it now")
    option = home_option((home or default_home()).absolute())
    console().print(f"{what}; {where}\n  next: ftcluster sweep {verb} {sweep.name}{option}", soft_wrap=True)
