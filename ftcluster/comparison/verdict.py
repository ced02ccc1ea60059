"""What the numbers say, in plain words: one sentence for the top of a report, and one per comparison.

A difference whose interval includes zero is "not distinguishable", whatever its estimate.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftcluster.comparison.findings import Comparison, Contender, Differences, score_text
from ftcluster.contracts.evidence import TestRecord
from ftcluster.evaluation.bootstrap import Difference

_PERCENT = "\u00a0%"  # no line may end between the number and its sign


def sentences(comparison: Comparison) -> list[str]:
    """The result first, then how sure it is."""
    best = comparison.best
    if best is None:
        return [
            f"None of {_count(len(comparison.contenders))} has a validation result yet, so there is nothing to rank."
        ]
    found = [
        f"{best.name} ranks first of {_count(len(comparison.contenders))} by {comparison.metric} "
        f"on the validation rows ({score_text(best.score)})."
    ]
    if best.record is None:
        return [*found, "It was not measured on the test rows."]
    found.append(_on_test(best, best.record, comparison.base))
    others = [c for c in comparison.tested if c.against_best]
    if others:
        found.append(_others(others))
    return found


def _on_test(best: Contender, record: TestRecord, base: TestRecord | None) -> str:
    if record.answers:
        text = f"On {len(record.answers)} test prompts it answers {percent(record.exact_match)} exactly right"
        text += f", the base model {percent(base.exact_match)}" if base else ""
    else:
        text = f"On {len(record.losses)} test rows its loss is {record.loss:.3f}"
        text += f", the base model's {base.loss:.3f}" if base else ""
    return f"{text}: {judged(best.against_base)}." if best.against_base else f"{text}."


def judged(differences: Differences) -> str:
    """``better than base by exact match (+71.0 points, 95 % interval +65.0 to +77.0), better by loss (...)``."""
    parts: list[str] = []
    for kind, found in differences.each:
        than = f" {_joined(found.verdict)} {differences.reference}" if not parts else ""
        parts.append(f"{found.verdict}{than} by {kind} ({interval_text(kind, found)})")
    return ", ".join(parts)


def _joined(verdict: str) -> str:
    return "from" if verdict == "not distinguishable" else "than"


def interval_text(kind: str, found: Difference) -> str:
    """The estimate with its unit, and its interval."""
    low, high, middle = (amount(kind, value) for value in (found.low, found.high, found.estimate))
    return f"{middle} {unit(kind)}, 95{_PERCENT} interval {low} to {high}"


def unit(kind: str) -> str:
    """What an ``amount`` is counted in."""
    return "points" if kind == "exact match" else "nats per token"


def amount(kind: str, value: float) -> str:
    """A signed difference: percentage points of exact match with one digit, nats of loss with three."""
    return f"{100 * value:+.1f}" if kind == "exact match" else f"{value:+.3f}"


def percent(share: float) -> str:
    """``0.734`` -> ``73 %``; shares that are not quite all or nothing are never rounded to it."""
    near_end = 0 < share < 0.01 or 0.99 < share < 1
    return f"{100 * share:.1f}{_PERCENT}" if near_end else f"{100 * share:.0f}{_PERCENT}"


def _others(others: list[Contender]) -> str:
    alike: dict[str, list[str]] = {}
    for contender in others:
        assert contender.against_best is not None
        alike.setdefault(_verdicts(contender.against_best), []).append(contender.name)
    parts = [f"{listed(names)} {_be(names)} {verdicts}" for verdicts, names in alike.items()]
    return "On the same test rows " + "; ".join(parts) + "."


def _verdicts(differences: Differences) -> str:
    """``worse than a by exact match and by loss``, ``not distinguishable from a by exact match but worse by loss``."""
    (first, found), *rest = differences.each
    text = f"{found.verdict} {_joined(found.verdict)} {differences.reference} by {first}"
    for kind, other in rest:
        text += f" and by {kind}" if other.verdict == found.verdict else f" but {other.verdict} by {kind}"
    return text


def _be(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _count(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
