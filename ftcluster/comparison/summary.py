"""The comparison for programs: what its table says, without curves and answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ftcluster.comparison.findings import Comparison, Contender, Differences
from ftcluster.comparison.verdict import sentences
from ftcluster.contracts.evidence import TestRecord


def summary(comparison: Comparison) -> dict[str, Any]:
    """Plain values, ready for JSON; trials in order of rank."""
    return {
        "title": comparison.title,
        "metric": comparison.metric,
        "direction": comparison.direction,
        "best": comparison.best.name if comparison.best else None,
        "verdict": " ".join(sentences(comparison)).replace("\u00a0", " "),
        "base": _scores(comparison.base),
        "runs": [_contender(contender) for contender in comparison.contenders],
        "facts": dict(comparison.facts),
    }


def _contender(contender: Contender) -> dict[str, Any]:
    return {
        "name": contender.name,
        "number": contender.number,
        "state": contender.state.value,
        "reason": contender.reason,
        "step": contender.step,
        "parameters": dict(contender.parameters),
        "validation": dict(contender.metrics),
        "score": contender.score,
        "tokens_per_s": contender.tokens_per_s,
        "seconds": contender.seconds,
        "test": _scores(contender.record),
        "against_base": _differences(contender.against_base),
        "against_best": _differences(contender.against_best),
    }


def _scores(record: TestRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    answers = {"answers": len(record.answers), "exact_match": record.exact_match} if record.answers else {}
    return {"rows": len(record.losses), "loss": record.loss, **answers}


def _differences(found: Differences | None) -> dict[str, Any] | None:
    if found is None:
        return None
    match = {"exact_match": asdict(found.match)} if found.match else {}
    return {"reference": found.reference, "loss": asdict(found.loss), **match}
