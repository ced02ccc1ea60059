"""The table of findings, and which of them are a warning or a refusal for a prepared data set.

Thresholds are applied to a finished report, so that changing one never prepares data again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftcluster.config.thresholds import REFUSE, WARN
from ftcluster.data.prepared.report import Report
from ftcluster.errors import DataError


@dataclass(frozen=True)
class Finding:
    """What a finding means, for people, and what they can do about it."""

    meaning: str
    remedy: str


FINDINGS: Mapping[str, Finding] = {
    "unusable": Finding("cannot be read as the format, and are left out", "repair them, or leave them out with --fix"),
    "too_long": Finding(
        "are longer than data.max_length tokens",
        "raise data.max_length, or choose data.too_long=split, truncate_left or truncate_right",
    ),
    "untrained": Finding("have no token with a loss", "see them with ftcluster data preview; raise data.max_length"),
    "duplicates": Finding("have the text of another used row", "leave the copies out with --fix"),
    "near_duplicates": Finding(
        "say nearly the same as another row", "look at the pairs; thin out what was generated from one pattern"
    ),
    "overlap": Finding(
        "that are held out say nearly the same as a training row, so the measured loss is too good",
        "leave one of each pair out, or hold out rows of another source with data.validation and data.test",
    ),
    "encoding": Finding("were decoded with a wrong encoding, such as Ã© for é", "repair them with --fix"),
    "lost_characters": Finding(
        "hold U+FFFD, where a character was lost before", "export the data again, as UTF-8; it cannot be guessed"
    ),
    "control_characters": Finding("hold control characters, such as a bell or an escape", "remove them with --fix"),
    "empty_answers": Finding("have no answer, or one that says nothing", "leave them out with --fix"),
    "short_answers": Finding("have an answer of one or two characters", "nothing, if labels are what you train"),
    "markers": Finding(
        "hold marks of a chat template, such as [INST], inside the text",
        "convert them into turns: what was pasted in as a whole prompt is trained as if somebody had said it",
    ),
    "control_tokens": Finding(
        "hold control tokens of this model as text; they are encoded as text, never as control",
        "remove them, unless the model should talk about them",
    ),
    "placeholders": Finding("hold a placeholder that was never filled in, such as {{name}}", "fill it in"),
    "other_languages": Finding("are in another language than most", "nothing, if several languages are wanted"),
}


_NO_ANSWER = ("answer is empty", "output is empty", "completion is empty", "chosen is empty")  # reasons of ``formats``


@dataclass(frozen=True)
class Counted:
    """Rows with a finding, out of how many that were looked at, and where the first are."""

    rows: int
    of: int
    where: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of the rows that were looked at; 0 where none were."""
        return self.rows / self.of if self.of else 0.0


@dataclass(frozen=True)
class Judgement:
    """A finding above a threshold."""

    finding: str
    counted: Counted
    threshold: float
    refused: bool

    def __str__(self) -> str:
        share, known = percent(self.counted.share), FINDINGS[self.finding]
        return f"{self.counted.rows:,} of {self.counted.of:,} rows ({share}) {known.meaning}"

    @property
    def remedy(self) -> str:
        """What can be done about it."""
        return FINDINGS[self.finding].remedy


def judge(report: Report, warn: Mapping[str, float], refuse: Mapping[str, float]) -> list[Judgement]:
    """Findings above a threshold, refusals first; ``warn`` and ``refuse`` replace defaults by name."""
    warns, refuses = {**WARN, **warn}, {**REFUSE, **refuse}
    found: list[Judgement] = []
    for name, counted in count(report).items():
        for limit, refused in ((refuses[name], True), (warns[name], False)):
            if counted.share > limit:
                found.append(Judgement(name, counted, limit, refused))
                break
    return sorted(found, key=lambda judgement: (not judgement.refused, -judgement.counted.share))


def refuse_bad_data(judgements: Sequence[Judgement]) -> None:
    """Raises a DataError that names every refusal, if there is one."""
    refused = [judgement for judgement in judgements if judgement.refused]
    if refused:
        listed = "".join(
            f"\n  {judgement.finding}: {judgement}, more than {percent(judgement.threshold)}; first "
            f"{', '.join(judgement.counted.where[:3]) or 'unknown'}\n    {judgement.remedy}"
            for judgement in refused
        )
        names = ", ".join(f"{judgement.finding}: 1" for judgement in refused)
        raise DataError(
            f"the data is refused:{listed}",
            where="data",
            remedy=f"ftcluster data check shows all of it; data.refuse={{{names}}} trains all the same",
        )


def count(report: Report) -> dict[str, Counted]:
    """Every finding of a report, those without rows too."""
    return {name: Counted(0, report.rows_read) for name in FINDINGS} | dict(_counts(report))


def _counts(report: Report) -> Iterator[tuple[str, Counted]]:
    read, audit = report.rows_read, report.audit
    yield "unusable", Counted(report.rows_bad, read)
    yield "too_long", _too_long(report)
    yield "untrained", _because(report, "no token to train", "no trained token")
    yield "duplicates", Counted(report.duplicates, report.rows_used, report.copies)
    if not audit:
        return
    for name, found in audit["found"].items():
        yield name, Counted(found["rows"], audit["rows"], tuple(place["place"] for place in found["where"]))
    empty, nothing = _because(report, *_NO_ANSWER), audit["found"].get("empty_answers", {"rows": 0, "where": []})
    said_nothing = tuple(place["place"] for place in nothing["where"])
    yield "empty_answers", Counted(empty.rows + nothing["rows"], read, empty.where + said_nothing)
    near = audit["near"]
    yield "near_duplicates", Counted(near["rows"], near["looked_at"], _pairs(near["pairs"]))
    yield "overlap", Counted(near["overlap"], near["held_out"], _pairs(near["overlap_pairs"]))
    yield "other_languages", _other_languages(audit["languages"])


def _too_long(report: Report) -> Counted:
    """By length, since one row that is cut can have several reasons."""
    rows = sum(one.rows for one in report.lengths if one.tokens > report.max_length)
    where = _because(report, "(data.max_length)", "(data.too_long=").where
    return Counted(rows, report.rows_read, tuple(dict.fromkeys(where)) if rows else ())


def _because(report: Report, *reasons: str) -> Counted:
    found = [each for each in (*report.dropped, *report.cut) if any(reason in each.reason for reason in reasons)]
    where = tuple(place for each in found for place in each.where)
    return Counted(sum(each.rows for each in found), report.rows_read, where)


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(f"{pair['row']} like {pair['like']} ({pair['similarity']:.2f})" for pair in pairs)


def _other_languages(languages: Mapping[str, Any]) -> Counted:
    looked_at, shares = languages["looked_at"], list(languages["shares"].values())
    return Counted(round(looked_at * (1 - shares[0])) if shares else 0, looked_at)


def percent(share: float) -> str:
    """``0.0123`` -> ``"1.2 %"``; what is less than a tenth of a percent, and not nothing, says so."""
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.0005 else "under 0.1 %"
