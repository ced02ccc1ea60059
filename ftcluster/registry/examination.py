"""A run before the gates: which run is meant, what it did on the test rows, and what each gate says.

    choose run -> binding gates -> test records of run, base and champion -> gates

Tests what was not tested yet and keeps the records; moves nothing. What follows from it is ``promotion``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcluster.config.compose import from_dict
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.folder import RunFolder
from ftcluster.data.prepared.folder import PreparedData, open_prepared
from ftcluster.errors import BadAdapter, StoreError, UsageError
from ftcluster.evaluation.record import TestLimits, base_record, from_json, record_of
from ftcluster.evaluation.subject import SharedBase
from ftcluster.ledger.schema import RunRow
from ftcluster.models.integrity import Integrity, read_integrity
from ftcluster.registry import evidence, gates
from ftcluster.registry.candidate import choose, default_model_name
from ftcluster.registry.gates import GateResult
from ftcluster.registry.store import CHAMPION, Registry, Version, check_alias, check_model_name
from ftcluster.training.records import store_uri

if TYPE_CHECKING:
    from ftcluster.ledger.store import Ledger

RECORD = "test.json"  # artifact of a run: its test record, for those who come after


@dataclass(frozen=True)
class Case:
    """A run before the gates: what was found, and what would be written. Nothing has moved."""

    run: RunRow
    config: RunConfig
    uri: str
    home: Path
    model: str
    alias: str
    gates: tuple[GateResult, ...]
    integrity: Integrity | None = None
    champion: Version | None = None
    is_champion: bool = False  # the alias points at this very adapter already
    record: TestRecord | None = None
    measurements: Mapping[str, Any] = field(default_factory=dict)


def examine(
    ledger: Ledger, reference: str, *, home: Path, model_name: str = "", alias: str = CHAMPION, uri: str = ""
) -> Case:
    """Ask every gate about a run; tests what was not tested yet, moves nothing.

    ``uri`` is the MLflow to promote in, by default the one the run was tracked in.

    Raises:
        UsageError: no such run, a bad model name or alias, or a full fine-tune.
        PromotionRefused: a sweep without a finished trial.
        StoreError: the run's folder or its data is gone.
        TrackingError: MLflow is away.
    """
    check_alias(alias)
    run = choose(ledger, reference)
    config = from_dict(run.config)
    if config.adapter.kind == "none":
        raise UsageError(
            f"{run.name} trained the whole model, and the registry takes adapters",
            where=reference,
            remedy=f"use it from its folder, {RunFolder(Path(run.folder)).model}, as in ftcluster chat {run.name}",
        )
    case = Case(
        run=run,
        config=config,
        uri=uri or store_uri(home, config.tracking.uri),
        home=home,
        model=check_model_name(model_name or default_model_name(ledger, run)),
        alias=alias,
        gates=(gates.finished(run.state),),
    )
    return _measured(case) if case.gates[0].passed else case


def _measured(case: Case) -> Case:
    folder = RunFolder(Path(case.run.folder))
    try:
        integrity = read_integrity(folder.adapter)
    except BadAdapter as error:
        return replace(case, gates=(*case.gates, gates.intact("", error.message)))
    case = replace(case, integrity=integrity, gates=(*case.gates, gates.intact(integrity.sha256)))
    registry = Registry(case.uri)
    champion = registry.champion(case.model, case.alias)
    if champion and (champion.sha256, champion.tags.get(evidence.RUN_TAG)) == (integrity.sha256, case.run.name):
        return replace(case, champion=champion, is_champion=True)
    prepared = _data_of(case.run)
    shared = SharedBase(case.config.model, case.config.engine, prepared.chat_template)
    limits = TestLimits(max_new_tokens=case.config.evaluation.max_new_tokens)  # what compare uses: tested once
    record = record_of(folder, shared, prepared, name=case.run.name, limits=limits)
    base = base_record(shared, prepared, limits=limits)
    stored = registry.read_json(champion.run_id, RECORD) if champion and champion.run_id else None
    rival = from_json(stored) if stored else None
    asked = gates.measured(record, base, rival)
    return replace(
        case,
        champion=champion,
        gates=(*case.gates, *asked),
        record=record,
        measurements=evidence.measurements(record, base, rival),
    )


def _data_of(run: RunRow) -> PreparedData:
    folder = RunFolder(Path(run.folder))
    if place := folder.read_facts().get("prepared"):
        return open_prepared(Path(place))
    remedy = "put the file back from a copy, or train the run again"
    raise StoreError(f"{run.name} does not say which data it was trained on", where=str(folder.facts), remedy=remedy)
