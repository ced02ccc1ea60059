"""Promotion: from a run that stood before the gates to a moved alias.

    adapter in MLflow -> evidence with its run -> version with its tags -> alias

Owns that order; each write is ``store``'s, and what the gates say is known before the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcluster.contracts.folder import RunFolder
from ftcluster.errors import PromotionRefused, TrackingError
from ftcluster.models.integrity import Integrity
from ftcluster.registry import evidence, gates
from ftcluster.registry.examination import RECORD, Case, examine
from ftcluster.registry.gates import GateResult
from ftcluster.registry.store import CHAMPION, Registry
from ftcluster.tracking.bookmark import read_bookmark
from ftcluster.tracking.projector import Projector
from ftcluster.tracking.redaction import hide_url_users
from ftcluster.training.records import to_project

if TYPE_CHECKING:
    from ftcluster.ledger.store import Ledger

EVIDENCE = "evidence.json"


@dataclass(frozen=True)
class Promotion:
    """What became of it; ``moved`` is False where the adapter was champion already."""

    model: str
    alias: str
    version: str
    previous: str | None
    run: str
    uri: str
    base: str
    moved: bool
    evidence: Mapping[str, Any]


def promote(
    ledger: Ledger,
    reference: str,
    *,
    home: Path,
    model_name: str = "",
    alias: str = CHAMPION,
    force: str = "",
    by: str = "",
    uri: str = "",
) -> Promotion:
    """Make a run, or a sweep's best trial, champion: ``examine`` and ``carry_out`` in one."""
    case = examine(ledger, reference, home=home, model_name=model_name, alias=alias, uri=uri)
    return carry_out(case, force=force, by=by)


def carry_out(
    case: Case,
    *,
    force: str = "",
    by: str = "",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    before_write: Callable[[str], None] = lambda _: None,
) -> Promotion:
    """Register the adapter with its evidence and move the alias; an adapter that is champion already stays so.

    ``force`` is a reason that overrules the gates about measurements and is stored; ``before_write`` is called
    with the name of every write.

    Raises:
        PromotionRefused: naming each gate that said no.
        TrackingError: MLflow is away, or cannot be given the adapter.
    """
    if refused := gates.refusals(case.gates, forced=bool(force)):
        raise _refusal(case, refused)
    registry = Registry(case.uri, before_write)
    known = {"model": case.model, "alias": case.alias, "run": case.run.name, "uri": hide_url_users(case.uri)}
    base = case.config.model.path
    if case.is_champion and case.champion:
        number = case.champion.number
        return Promotion(**known, base=base, version=number, previous=number, moved=False, evidence={})
    assert case.integrity is not None and case.record is not None  # noqa: PT018 - no gate passes without both
    run_id = _deliver(case, case.integrity, registry)
    at = now().isoformat(timespec="seconds")
    overruled = force if any(not gate.passed for gate in case.gates) else ""
    written = evidence.document(
        about=_about(case, case.integrity), test=case.measurements, gates=case.gates, forced=overruled, by=by, at=at
    )
    registry.write_json(run_id, RECORD, asdict(case.record))
    registry.write_json(run_id, EVIDENCE, written)
    version = registry.register(case.model, run_id, evidence.tags(written))
    registry.move_alias(case.alias, version)
    previous = case.champion.number if case.champion else None
    return Promotion(**known, base=base, version=version.number, previous=previous, moved=True, evidence=written)


def _deliver(case: Case, integrity: Integrity, registry: Registry) -> str:
    """Bring the run into MLflow as far as it is not; the id of its MLflow run, whose adapter is the one tested."""
    folder = Path(case.run.folder)
    delivery = Projector(case.uri, case.home).deliver(to_project(case.run))
    bookmark = read_bookmark(folder, hide_url_users(case.uri))
    if bookmark is None or delivery.pending:
        raise TrackingError(
            f"{case.run.name} is not in MLflow yet{f': {delivery.note}' if delivery.note else ''}",
            where=hide_url_users(case.uri),
            remedy="deliver it with `ftcluster runs sync`, then promote again",
        )
    if registry.stored_sha256(bookmark.run_id) != integrity.sha256:
        registry.store_adapter(bookmark.run_id, RunFolder(folder).adapter)
        _check_stored(case, registry, bookmark.run_id, integrity)
    return bookmark.run_id


def _check_stored(case: Case, registry: Registry, run_id: str, integrity: Integrity) -> None:
    if registry.stored_sha256(run_id) != integrity.sha256:
        raise TrackingError(
            f"MLflow does not give back the adapter of {case.run.name} as it was stored",
            where=hide_url_users(case.uri),
            remedy="check the artifact store of the MLflow server",
        )


def _about(case: Case, integrity: Integrity) -> dict[str, Any]:
    return {
        "run": case.run.name,
        "sweep": case.run.parent or "",
        "config": case.run.identity,
        "adapter": asdict(integrity),
        "base": {"path": case.config.model.path, "revision": integrity.base_revision},
        "follows": case.champion.number if case.champion else "",
    }


def _refusal(case: Case, refused: list[GateResult]) -> PromotionRefused:
    lines = "".join(f"\n  {gate.name}: {gate.detail}" for gate in refused)
    if case.run.state.value != "finished":
        remedy = "promote a finished run; `ftcluster runs` lists them"
    elif any(gate.binding for gate in refused):
        remedy = "train it again; a changed adapter is never promoted"
    else:
        remedy = 'if you know better, --force "REASON" stores your reason with the version'
    return PromotionRefused(f"{case.run.name} stays out of {case.model}:{lines}", remedy=remedy)
