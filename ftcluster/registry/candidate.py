"""Which run a user means: a run as it is named, or the best finished trial of a sweep; and which model it becomes.

Reads the ledger, judges nothing but the sweep's own metric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftcluster.errors import PromotionRefused, UsageError
from ftcluster.ledger import ranking
from ftcluster.ledger.schema import RunRow

if TYPE_CHECKING:
    from ftcluster.ledger.store import Ledger


def choose(ledger: Ledger, reference: str) -> RunRow:
    """The run of that name, id or beginning; for a sweep its best finished trial.

    Raises:
        UsageError: no such run, or several.
        PromotionRefused: a sweep without a finished trial that reported the sweep's metric.
    """
    row = ledger.find(reference)
    return best_trial(ledger, row) if row.kind == "sweep" else row


def best_trial(ledger: Ledger, sweep: RunRow) -> RunRow:
    """The finished trial that is best by the sweep's metric; of equals the one with the lower number.

    Raises:
        UsageError: the sweep does not say what its metric is.
        PromotionRefused: no finished trial reported it.
    """
    spec = sweep.config.get("spec", {})
    metric, direction = spec.get("metric"), spec.get("direction")
    if not metric or direction not in ("minimize", "maximize"):
        raise UsageError(f"{sweep.name} names no metric to choose by", remedy="name one of its trials instead")
    trials = ledger.runs(parent=sweep.name)
    best = ranking.best_trial(trials, metric, direction, spec.get("repeats", 1))
    if best is None:
        states = ", ".join(f"{t.name} {t.state.value}" for t in trials[:5]) or "it has no trials"
        raise PromotionRefused(
            f"no finished trial of {sweep.name} reported {metric} ({states})",
            where=sweep.name,
            remedy=f"ftcluster runs {sweep.name} shows how they ended",
        )
    return best


def default_model_name(ledger: Ledger, run: RunRow) -> str:
    """A sweep's own name without the number that kept it apart from earlier ones, so that champions meet."""
    if run.parent is None and run.kind != "sweep":
        return run.name
    sweep = ledger.get(run.parent) if run.parent else run
    return str(sweep.config.get("spec", {}).get("name") or sweep.name)
