"""JSON for programs is strict JSON; tables for people fit what they hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftcluster.cli.output import print_json, table


@dataclass(frozen=True)
class Point:
    """A value with everything that JSON has no word for."""

    where: Path
    loss: float
    tags: tuple[str, ...]


def test_json_has_no_nan_and_keeps_chinese_readable(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"point": Point(Path("/a"), float("nan"), ("好",)), "top": float("inf"), 3: None})
    text = capsys.readouterr().out
    assert json.loads(text) == {"point": {"where": "/a", "loss": None, "tags": ["好"]}, "top": None, "3": None}
    assert "好" in text


def test_a_table_shows_numbers_short_and_absent_values_as_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    table(("run", "loss", "note"), [("[a]", 0.123456, None), ("b", float("nan"), "x")], title="Runs")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["Runs"], ["run", "loss", "note"], ["[a]", "0.1235", "-"], ["b", "-", "x"]]
