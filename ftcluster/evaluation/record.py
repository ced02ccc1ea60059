"""Test records: what a model did on the test rows, computed once and kept until anything it depends on changes.

The test split is read here and nowhere else: no pruner, sampler or selection sees it. Which rows are taken is
the same for every subject, a seeded draw, so that a cap does not favour what the file begins with; answers are
written for the first of the drawn rows.

    <run>/test.json                                 of a run
    <prepared folder>.base-<revision>.json          of a base, beside the prepared data it was tested on

A stored record is read back only if its key (data, weights, arithmetic, limits) is the one asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.folder import RunFolder, write_atomically
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.data.rows.example import Message
from ftcluster.evaluation.answers import answer
from ftcluster.evaluation.likelihood import document_losses
from ftcluster.evaluation.subject import SharedBase, Subject, identity

_VERSION = 1  # raise it when the same inputs would give another record
_DRAW = 20_250_101  # fixed, so that all runs of all sweeps are tested on the same rows


@dataclass(frozen=True)
class TestLimits:
    """How much of the test split is used; part of a record's identity."""

    __test__ = False

    rows: int = 500
    answers: int = 200
    max_new_tokens: int = 64


def record_of(
    run: RunFolder, base: SharedBase, prepared: PreparedData, *, name: str, limits: TestLimits | None = None
) -> TestRecord:
    """The test record of a run that left an adapter or a model.

    Raises:
        StoreError: it left neither.
        BadAdapter: what it left was changed since, or belongs to other base weights.
    """
    limits = limits or TestLimits()
    # A tuned model stands alone, but an adapter is nothing without the weights it was trained on.
    weights = f"{identity(run)} on {base.revision if run.adapter.is_dir() else 'itself'}"

    def make() -> TestRecord:
        with base.result(run) as subject:
            return measure(subject, prepared, name=name, limits=limits)

    return _kept(run.test, _key(name, prepared, weights, base.arithmetic, limits), make)


def base_record(base: SharedBase, prepared: PreparedData, *, limits: TestLimits | None = None) -> TestRecord:
    """The test record of the bare base.

    Raises:
        ModelError: the base's folder is no model any more.
    """
    limits = limits or TestLimits()
    path = prepared.folder.with_name(f"{prepared.folder.name}.base-{base.revision[:16]}.json")
    key = _key("base", prepared, base.revision, base.arithmetic, limits)
    return _kept(path, key, lambda: measure(base.base(), prepared, name="base", limits=limits))


def measure(subject: Subject, prepared: PreparedData, *, name: str, limits: TestLimits) -> TestRecord:
    """Losses and answers of one subject on the drawn test rows."""
    held_out = prepared.held_out("test")
    drawn = test_rows(len(prepared.test), limits.rows)
    rows = sorted(drawn, key=lambda row: not held_out[row].messages)  # answers belong to the first ones
    sums = document_losses(subject.engine, subject.slot, prepared.test, rows)
    chosen = [held_out[row] for row in rows]
    asked = [example for example in chosen if example.messages][: limits.answers]
    written = answer(subject.engine, subject.slot, subject.tokenizer, asked, limits.max_new_tokens) if asked else []
    return TestRecord(
        subject=name,
        data=prepared.folder.name,
        losses=tuple(s.loss for s in sums),
        weights=tuple(s.weight for s in sums),
        prompts=tuple(_last_turn(example.messages) for example in chosen),
        references=tuple(example.reference for example in chosen),
        answers=tuple(a.text for a in written),
        finished=tuple(a.finished for a in written),
    )


def test_rows(rows: int, limit: int) -> list[int]:
    """Which test rows are used, in the order in which they are."""
    words = np.random.Philox(key=np.array([_DRAW, 0], np.uint64)).random_raw(rows)
    return [int(row) for row in np.argsort(words, kind="stable")[:limit]]


test_rows.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def _last_turn(messages: Sequence[Message]) -> str:
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def _key(name: str, prepared: PreparedData, weights: str, arithmetic: str, limits: TestLimits) -> dict[str, Any]:
    about = {"version": _VERSION, "subject": name, "data": prepared.folder.name}
    return about | {"weights": weights, "arithmetic": arithmetic} | asdict(limits)


def _kept(path: Path, key: Mapping[str, Any], make: Callable[[], TestRecord]) -> TestRecord:
    stored = _read(path)
    if stored.get("key") == key:
        return from_json(stored["record"])
    record = make()
    write_atomically(path, json.dumps({"key": key, "record": asdict(record)}, ensure_ascii=False) + "\n")
    return record


def _read(path: Path) -> dict[str, Any]:
    """A stored record, or nothing where there is none or it cannot be read: it is computed again then."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def from_json(values: Mapping[str, Any]) -> TestRecord:
    """The inverse of ``dataclasses.asdict`` and JSON."""
    plain: dict[str, Any] = {
        f.name: tuple(values[f.name]) if isinstance(values[f.name], list) else values[f.name]
        for f in fields(TestRecord)
    }
    return TestRecord(**plain)
