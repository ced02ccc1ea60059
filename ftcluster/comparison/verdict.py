"""What the numbers say, in plain words: one sentence for the top of a report, and one per comparison.

A difference whose interval includes zero is "not distinguishable", whatever its estimate.
"""

from __future__ import annotations

from ftcluster.comparison.findings import Comparison, Contender, Differences, score_text
from ftcluster.contracts.evidence import TestRecord
from ftcluster.evaluation.bootstrap import Difference


def sentences(comparison: Comparison) -> list[str]:
    """The result first, then how sure it is."""
    best = comparison.best
    if best is None:
        return [f"None of {_count(len(comparison.contenders))} has a validation result yet, so there is nothing to rank."]
    found = [
        f"{best.name} ranks first of {_count(len(comparison.contenders))} by {comparison.metric} "
        f"on the validation rows ({score_text(best.score)})."
    ]
    if best.record is None:
        return [*found, "It was not measured on the test rows."]
    found.append(_on_test(best, best.record, comparison.base))
    others = [c for c in comparison.tested if c.against_best]
    if others:
        found.append(_others(best, others))
    return found


def _on_test(best: Contender, record: TestRecord, base: TestRecord | None) -> str:
    against = best.against_base
    if record.answers:
        text = f"On {len(record.answers)} test prompts it answers {percent(record.exact_match)} exactly right"
        text += f", the base model {percent(base.exact_match)}" if base else ""
    else:
        text = f"On {len(record.losses)} test rows its loss is {record.loss:.3f}"
        text += f", the base model's {base.loss:.3f}" if base else ""
    return f"{text}: {judged(against)}." if against else f"{text}."


def judged(differences: Differences) -> str:
    """``better than base (+71.0 points, 95 % interval +65.0 to +77.0)``."""
    deciding, points = differences.deciding, differences.match is not None
    joined = "from" if deciding.verdict == "not distinguishable" else "than"
    return f"{deciding.verdict} {joined} {differences.reference} ({interval_text(deciding, points=points)})"


def interval_text(difference: Difference, *, points: bool) -> str:
    """The estimate and its interval, of loss in nats or of exact match in percentage points."""
    low, high, middle = (amount(value, points=points) for value in (difference.low, difference.high, difference.estimate))
    return f"{middle} {'points' if points else 'nats per token'}, 95 % interval {low} to {high}"


def amount(value: float, *, points: bool) -> str:
    """A signed difference: percentage points with one digit, nats with three."""
    return f"{100 * value:+.1f}" if points else f"{value:+.3f}"


def percent(share: float) -> str:
    """``0.734`` -> ``73 %``; shares that are not quite all or nothing are never rounded to it."""
    near_end = 0 < share < 0.01 or 0.99 < share < 1
    return f"{100 * share:.1f} %" if near_end else f"{100 * share:.0f} %"


def _others(best: Contender, others: list[Contender]) -> str:
    alike = [c.name for c in others if c.against_best and c.against_best.deciding.verdict == "not distinguishable"]
    worse = [c.name for c in others if c.against_best and c.against_best.deciding.verdict == "worse"]
    better = [c.name for c in others if c.against_best and c.against_best.deciding.verdict == "better"]
    parts = [
        f"{_listed(alike)} {_be(alike)} not distinguishable from {best.name}" if alike else "",
        f"{_listed(worse)} {_be(worse)} worse" if worse else "",
        f"{_listed(better)} {_be(better)} better than {best.name}, although ranked lower on validation" if better else "",
    ]
    return "On the same test rows " + "; ".join(part for part in parts if part) + "."


def _be(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _count(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
