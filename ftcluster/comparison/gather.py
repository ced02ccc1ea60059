"""From references (a sweep, run names or ids) to a ``Comparison``: what ran, what the best left, how they differ.

    ledger rows -> contenders ranked by the validation metric -> test records of the first few and of the base
                -> differences to the base and to the first, with intervals

The order is made from validation metrics alone; test rows are read after it is fixed, and change nothing in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ftcluster.comparison.facts import facts_of
from ftcluster.comparison.findings import Comparison, Contender, Differences
from ftcluster.comparison.order import in_order, resolve
from ftcluster.config.compose import from_dict
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.folder import RunFolder
from ftcluster.data.prepared.folder import PreparedData, open_prepared
from ftcluster.data.prepared.held_out import same_held_out
from ftcluster.errors import DataError
from ftcluster.evaluation.bootstrap import loss_difference, match_difference
from ftcluster.evaluation.record import TestLimits, base_record, record_of
from ftcluster.evaluation.subject import SharedBase, has_result
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger

Announce = Callable[[str, int, int], None]  # what is measured now, how many are done, of how many


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
    asked = resolve(ledger, references)
    configs = {row.name: from_dict(dict(row.config)) for row in asked.rows}
    found = in_order(ledger, asked, now=now)
    prepared = _shared_data(asked.rows)
    if prepared is None:
        return found
    count = top if asked.sweep else len(asked.rows)
    tested = _test(found, configs, prepared, max(top, count), limits or TestLimits(), announce)
    return replace(tested, facts=facts_of(tested, prepared, configs))


def _shared_data(rows: Sequence[RunRow]) -> PreparedData | None:
    """The data all of them are judged on, None while nobody has started; some may have trained on less of it.

    Raises:
        DataError: naming two runs with other held-out rows, and both data.
    """
    folders = {row.name: str(RunFolder(Path(row.folder)).read_facts().get("prepared", "")) for row in rows}
    known = [(name, Path(folder)) for name, folder in folders.items() if folder]
    if not known:
        return None
    first, folder = known[0]
    data = open_prepared(folder)
    for name, other in known:
        if other.name != folder.name and not same_held_out(data, open_prepared(other)):
            raise DataError(
                f"{first} was trained on data {folder.name[:12]}, {name} on data {other.name[:12]}: "
                "their held-out rows are not the same, so their numbers cannot be compared",
                where="comparison",
                remedy="compare runs of one data set, tokenizer and objective; ftcluster runs show NAME tells which",
            )
    return data


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
