"""The evidence that goes with a version: all of it as one JSON document, the main points as tags.

Pure. The document is stored with the run before a version exists, the tags are written with the version in one
transaction, so there is no champion without evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ftcluster import __version__
from ftcluster.contracts.evidence import TestRecord
from ftcluster.evaluation.bootstrap import loss_difference, match_difference
from ftcluster.registry.gates import GateResult, same_rows
from ftcluster.registry.store import SHA256_TAG

RUN_TAG = "ftcluster.run"
BASE_TAG = "ftcluster.base"
BASE_REVISION_TAG = "ftcluster.base_revision"


def measurements(record: TestRecord, base: TestRecord, champion: TestRecord | None) -> dict[str, Any]:
    """Scores of candidate, base and champion, and the candidate's distance from both with intervals."""
    found: dict[str, Any] = {"data": record.data, "candidate": _scores(record), "base": _scores(base)}
    if same_rows(record, base) and any(record.weights):
        found["against_base"] = _differences(record, base)
    if champion is not None:
        found["champion"] = _scores(champion)
        if same_rows(record, champion) and any(record.weights):
            found["against_champion"] = _differences(record, champion)
    return found


def document(
    *,
    about: Mapping[str, Any],
    test: Mapping[str, Any],
    gates: Sequence[GateResult],
    forced: str,
    by: str,
    at: str,
) -> dict[str, Any]:
    """Everything that is known about a promotion; ``about`` says which run, adapter and base."""
    return {
        **about,
        "test": dict(test),
        "gates": [asdict(gate) for gate in gates],
        "forced": forced,
        "promoted_by": by,
        "promoted_at": at,
        "ftcluster": __version__,
    }


def tags(evidence: Mapping[str, Any]) -> dict[str, str]:
    """The main points as a version's tags, readable in MLflow's pages."""
    test, base, adapter = evidence["test"], evidence["base"], evidence["adapter"]
    return {
        RUN_TAG: evidence["run"],
        "ftcluster.sweep": evidence["sweep"],
        "ftcluster.config": evidence["config"],
        SHA256_TAG: adapter["sha256"],
        BASE_TAG: base["path"],
        BASE_REVISION_TAG: base["revision"],
        "ftcluster.data": test["data"],
        "ftcluster.gates": _gates_in_a_line(evidence["gates"]),
        "ftcluster.forced": evidence["forced"],
        "ftcluster.test_loss": _in_a_line(test, "loss"),
        "ftcluster.test_exact_match": _in_a_line(test, "exact_match"),
        "ftcluster.promoted_by": evidence["promoted_by"],
        "ftcluster.promoted_at": evidence["promoted_at"],
    }


def _scores(record: TestRecord) -> dict[str, Any]:
    scores: dict[str, Any] = {"subject": record.subject, "rows": len(record.losses), "loss": record.loss}
    if record.answers:
        scores |= {
            "answers": len(record.answers),
            "exact_match": record.exact_match,
            "finished": sum(record.finished) / len(record.finished),
        }
    return scores


def _differences(one: TestRecord, other: TestRecord) -> dict[str, Any]:
    match = match_difference(one, other)
    found: dict[str, Any] = {"loss": asdict(loss_difference(one, other))}
    return found | ({"exact_match": asdict(match)} if match else {})


def _gates_in_a_line(gates: Sequence[Mapping[str, Any]]) -> str:
    failed = [gate["name"] for gate in gates if not gate["passed"]]
    return f"forced past: {', '.join(failed)}" if failed else f"all {len(gates)} passed"


def _in_a_line(test: Mapping[str, Any], score: str) -> str:
    if score not in test["candidate"]:
        return ""
    text = f"{test['candidate'][score]:.4f}, base {test['base'][score]:.4f}"
    if gap := test.get("against_base", {}).get(score):
        text += f", difference {gap['estimate']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"
    return text
