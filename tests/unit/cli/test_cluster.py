"""``ftcluster cluster status`` on one machine: a table for people, everything for programs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ftcluster.cli import main

SCRIPT = """
gpus:
  GPU-a: {{utilization: 0.93, memory_used: 1073741824, memory_total: 2147483648}}
  GPU-b: {{xids: [79], recovery_action: 2}}
  GPU-c: {{processes: {{"{pid}": 30000000000}}}}
  GPU-d: {{silent: [power, links, processes, temperature]}}
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("FTCLUSTER_GPU_PROBE", raising=False)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "gpus.yaml"
    file.write_text(SCRIPT.format(pid=os.getppid()))
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(file))
    return file


@pytest.mark.usefixtures("script")
def test_each_card_has_a_state_and_each_bad_one_a_reason_and_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "status"]) == 0
    text = capsys.readouterr().out
    assert "this machine alone" in text
    assert "2 of 4" in text
    assert "1.0 GiB of 2.0 GiB" in text
    assert "93 %" in text
    assert "it has failed; XID 79: the GPU has fallen off the bus\n  -> the driver asks to: reboot the node" in text
    assert f"(pid {os.getppid()}, 27.9 GiB)\n  -> end it" in text


@pytest.mark.usefixtures("script")
def test_programs_get_all_that_was_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["address"], told["gone"]) == ("", 0)
    (node,) = told["nodes"]
    assert node["state"] == "ok"
    cards = node["inventory"]["gpus"]["gpus"]
    assert [card["state"] for card in cards] == ["ok", "unusable", "unusable", "ok"]
    assert cards[2]["processes"][0]["ours"] is False
    assert cards[3]["power"] is None
    assert cards[1]["remedy"] == "the driver asks to: reboot the node"


def test_a_machine_without_gpus_says_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none.yaml").write_text("problem: no NVIDIA driver on this machine")
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(tmp_path / "none.yaml"))
    assert main(["cluster", "status"]) == 0
    assert "no NVIDIA driver" in capsys.readouterr().out


def test_an_address_where_nobody_answers_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "status", "--address", "127.0.0.1:1"]) == 2
    assert "127.0.0.1:1: no Ray cluster there: Connection refused" in capsys.readouterr().err
    assert main(["cluster", "status", "--address", "127.0.0.1:head"]) == 2
    assert "127.0.0.1:head: no Ray cluster there: invalid literal" in capsys.readouterr().err


def test_a_broken_script_is_told_by_line(capsys: pytest.CaptureFixture[str], script: Path) -> None:
    script.write_text("gpus:\n  GPU-a: {colour: green}\n")
    assert main(["cluster", "status"]) == 2
    assert f"{script}:2: gpus.GPU-a.colour is not a known key." in capsys.readouterr().err
