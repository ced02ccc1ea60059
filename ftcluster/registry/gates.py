"""The questions a run must answer before it becomes champion.

Pure: evidence in, one ``GateResult`` per question out. Does not gather the evidence (``promotion``) and moves
nothing (``store``).

    finished          it trained to its planned end                               cannot be forced
    intact            its adapter is the one that passed the gate when saved      cannot be forced
    tested            there are test rows, and the base was tested on the same
    beats base        lower loss on them, the 95 % interval excludes zero; and not worse in exact match
    holds champion    not worse than today's champion, in loss and in exact match
    answers finish    at least 90 % of its answers end by themselves

A tie with the champion passes. The intervals of a small test set are wide, and a gate that asked for proof of
progress would lock out a retraining on fresher data that is as good; whoever promotes has already chosen the
run. Against the base a tie fails: an adapter that cannot be told from no adapter has no reason to exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.trial import RunState
from ftcluster.evaluation.bootstrap import FEWEST_ROWS, Difference, loss_difference, match_difference

FINISHED_SHARE = 0.9


@dataclass(frozen=True)
class GateResult:
    """One question and its answer; only a gate with ``binding=False`` can be overruled by a reason."""

    name: str
    passed: bool
    detail: str
    binding: bool = False


def finished(state: RunState) -> GateResult:
    """Pruned runs fail as well: they were stopped because others did better."""
    return GateResult("finished", state is RunState.FINISHED, f"the run is {state.value}", binding=True)


def intact(sha256: str, fault: str = "") -> GateResult:
    """``fault`` is what the integrity check found, empty where it found nothing."""
    return GateResult("intact", not fault, fault or f"adapter sha256 {sha256[:12]}… as saved", binding=True)


def measured(candidate: TestRecord, base: TestRecord, champion: TestRecord | None) -> list[GateResult]:
    """The gates about what the candidate does on the test rows; ``champion`` is None where there is none yet."""
    test = _tested(candidate, base)
    if not test.passed:
        return [test]
    return [test, _beats_base(candidate, base), _holds_champion(candidate, champion), _answers_finish(candidate)]


def refusals(gates: Sequence[GateResult], *, forced: bool) -> list[GateResult]:
    """The gates that stand in the way; with a reason to force, only the binding ones."""
    return [gate for gate in gates if not gate.passed and (gate.binding or not forced)]


def same_rows(one: TestRecord, other: TestRecord) -> bool:
    """Whether two records can be compared row by row."""
    return (one.data, one.weights, len(one.answers)) == (other.data, other.weights, len(other.answers))


def _tested(candidate: TestRecord, base: TestRecord) -> GateResult:
    rows = len(candidate.losses)
    if not sum(candidate.weights):
        return GateResult("tested", False, "the test split is empty: set data.test or data.test_fraction")
    if not same_rows(candidate, base):
        return GateResult("tested", False, "the base was tested on other rows")
    answers = f", {len(candidate.answers)} answers" if candidate.answers else ""
    return GateResult("tested", True, f"{rows} test rows{answers}, data {candidate.data[:12]}")


def _beats_base(candidate: TestRecord, base: TestRecord) -> GateResult:
    loss, match = loss_difference(candidate, base), match_difference(candidate, base)
    passed = loss.verdict == "better" and (match is None or match.verdict != "worse")
    few = len(candidate.losses) < FEWEST_ROWS
    hint = f"; fewer than {FEWEST_ROWS} test rows prove nothing" if few else ""
    return GateResult("beats base", passed, _differences(loss, match) + hint)


def _holds_champion(candidate: TestRecord, champion: TestRecord | None) -> GateResult:
    name = "holds champion"
    if champion is None:
        return GateResult(name, True, "there is no champion to compare with")
    if not same_rows(candidate, champion):
        return GateResult(
            name, True, f"not compared: the champion was tested on other rows (data {champion.data[:12]})"
        )
    loss, match = loss_difference(candidate, champion), match_difference(candidate, champion)
    passed = "worse" not in (loss.verdict, match.verdict if match else "")
    return GateResult(name, passed, _differences(loss, match))


def _answers_finish(candidate: TestRecord) -> GateResult:
    name, written = "answers finish", len(candidate.finished)
    if not written:
        return GateResult(name, True, "not asked: the data has no prompts")
    ended = sum(candidate.finished)
    return GateResult(name, ended >= FINISHED_SHARE * written, f"{ended} of {written} answers end by themselves")


def _differences(loss: Difference, match: Difference | None) -> str:
    text = f"loss {_signed(loss)}, {loss.verdict}"
    return f"{text}; exact match {_signed(match)}, {match.verdict}" if match else text


def _signed(difference: Difference) -> str:
    return f"{difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
