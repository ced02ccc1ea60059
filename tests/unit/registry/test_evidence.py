"""What is written about a promotion, and the lines that load what was promoted."""

from __future__ import annotations

import ast
import json

from ftcluster.contracts.evidence import TestRecord
from ftcluster.registry.evidence import document, measurements, tags
from ftcluster.registry.gates import GateResult
from ftcluster.registry.snippet import loading_snippet

ABOUT = {
    "run": "s-1",
    "sweep": "s",
    "config": "c" * 64,
    "adapter": {"sha256": "a" * 64},
    "base": {"path": "/models/qwen", "revision": "b" * 64},
}


def record(subject: str, loss: float, right: int, data: str = "d") -> TestRecord:
    """Ten rows of two tokens, the first ``right`` of them answered exactly; the last never ends."""
    answers = tuple("yes" if i < right else "no" for i in range(10))
    ended = (True,) * 9 + (False,)
    return TestRecord(subject, data, (2 * loss,) * 10, (2.0,) * 10, ("?",) * 10, ("yes",) * 10, answers, ended)


def test_measurements_hold_scores_and_differences_with_intervals() -> None:
    found = measurements(record("s-1", 1.0, 8), record("base", 3.0, 0), record("s-0", 1.5, 8))
    assert found["candidate"] == {
        "subject": "s-1",
        "rows": 10,
        "loss": 1.0,
        "answers": 10,
        "exact_match": 0.8,
        "finished": 0.9,
    }
    assert found["against_base"]["loss"] == {"estimate": -2.0, "low": -2.0, "high": -2.0, "verdict": "better"}
    assert found["against_base"]["exact_match"]["estimate"] == 0.8
    assert found["against_champion"]["loss"]["estimate"] == -0.5


def test_a_champion_of_other_data_has_scores_but_no_difference() -> None:
    found = measurements(record("s-1", 1.0, 8), record("base", 3.0, 0), record("s-0", 1.5, 8, data="e"))
    assert found["champion"]["subject"] == "s-0"
    assert "against_champion" not in found


def test_a_document_is_plain_json_and_its_tags_are_short_texts() -> None:
    gates = [GateResult("beats base", True, "well"), GateResult("holds champion", False, "worse")]
    test = measurements(record("s-1", 1.0, 8), record("base", 3.0, 0), None)
    written = document(about=ABOUT, test=test, gates=gates, forced="I know", by="ada", at="2026-03-01T12:00:00+00:00")
    assert json.loads(json.dumps(written)) == written
    found = tags(written)
    assert found["ftcluster.gates"] == "forced past: holds champion"
    assert found["ftcluster.forced"] == "I know"
    assert found["ftcluster.test_loss"] == "1.0000, base 3.0000, difference -2.0000 [-2.0000, -2.0000]"
    assert found["ftcluster.base"] == "/models/qwen"
    assert all(isinstance(text, str) for text in found.values())


def test_without_answers_there_is_no_exact_match() -> None:
    silent = TestRecord("s-1", "d", (2.0,) * 10, (2.0,) * 10, (), (), (), ())
    written = document(about=ABOUT, test=measurements(silent, silent, None), gates=[], forced="", by="", at="")
    assert tags(written)["ftcluster.test_exact_match"] == ""


def test_the_loading_lines_are_python_that_does_not_mention_ftcluster() -> None:
    text = loading_snippet(
        uri="sqlite:////runs/mlflow.db", model="m", alias="champion", base="/models/it's", prompt='say "你好"\n'
    )
    ast.parse(text)
    assert "models:/m@champion" in text
    assert "ftcluster" not in text


def test_the_loading_lines_keep_the_password_of_the_store_to_themselves() -> None:
    text = loading_snippet(uri="postgresql://me:secret@db/mlflow", model="m", alias="champion", base="/b")
    assert "secret" not in text
    assert "db/mlflow" in text
