"""Has a sweep that nobody drives go on in another way: on other ranks, at another ZeRO stage, in other passes.

Every trial that has not ended is checked before anything is written. The sweep's own config is written last, so that
the same words, given again, finish what a kill left half done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from ftcluster.config.compose import from_dict, to_dict
from ftcluster.config.identity import identity
from ftcluster.config.resumption import changes, resumed
from ftcluster.config.schema import RunConfig
from ftcluster.errors import Problems, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.bundles import swept_keys
from ftcluster.sweep.control import check_resumable, driven, specification
from ftcluster.sweep.specification import read_space
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.records import owner_check
from ftcluster.training.resumption import note_changes
from ftcluster.training.sharding import check_layout


def go_on_with(
    ledger: Ledger, sweep: RunRow, words: Sequence[str], tell: Callable[[str], None], *, take_over: bool = False
) -> RunRow:
    """The sweep, its config and those of its trials changed by the words.

    Raises:
        ConfigError: words that would change results, or that some trial cannot go on with; nothing is changed then.
        UsageError: it is no sweep, has ended, or somebody drives it.
        StoreError: something cannot be written; the same words may be given again.
    """
    check_resumable(sweep)
    if driven(sweep) and sweep.owner and owner_check(take_over=take_over)(sweep.owner) is not False:
        remedy = f"end that first, on {sweep.owner.host} with: kill {sweep.owner.pid}; it saves everything"
        raise UsageError(f"{sweep.name} is being driven by {sweep.owner}, with its own config", remedy=remedy)
    spec, before = specification(sweep), from_dict(sweep.config["base"])
    space, found = read_space(spec, before), Problems()
    rules = (*space.when.values(), *space.constraints)
    kept = swept_keys(spec).union(*(rule.keys for rule in rules))
    base = _checked(before, words, kept)
    planned: list[tuple[RunRow, RunConfig, dict[str, str]]] = []
    for trial in ledger.runs(parent=sweep.name):
        if not trial.state.ended:
            with found.collected():
                config = from_dict(trial.config)
                after = _checked(config, words, kept)
                planned.append((trial, after, changes(config, after)))
    found.refuse(where=f"trials of {sweep.name}")
    for trial, after, changed in planned:
        if changed:
            if Path(trial.folder).exists():
                note_changes(Path(trial.folder), after, changed, tell)
            ledger.set_state(trial.name, trial.state, config=to_dict(after), identity=identity(after))
    with closing(SpoolTracker(Path(sweep.folder))) as own:
        own.tags({f"ftcluster.resumed.{key}": value for key, value in changes(before, base).items()})
    return ledger.edit(sweep.name, lambda row: {**row.config, "base": to_dict(base)})


def _checked(config: RunConfig, words: Sequence[str], kept: frozenset[str]) -> RunConfig:
    after = resumed(config, words, swept=kept)
    check_layout(after)
    return after
