"""Every command in docs/data.md runs as it stands there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from model_server import ModelServer

from ftcluster.cli import main
from ftcluster.config.thresholds import NEVER, REFUSE, WARN

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, tiny_qwen2: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder the page speaks of."""
    pairs = [{"question": f"How many clips in week {n}?", "answer": f"There were {n + 20} clips."} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (tmp_path / "alpaca.json").write_text(json.dumps([{"instruction": "Count.", "output": "One, two."}]))
    (tmp_path / "letters.jsonl").write_text('{"text": "Dear friend, the kettle sings."}\n')
    (tmp_path / "answers.csv").write_text(
        "Frage,Antwort\n" + "".join(f"Wie viele {n}?,Es sind {n}.\n" for n in range(9))
    )
    (tmp_path / "qwen").symlink_to(tiny_qwen2)
    (tmp_path / "llama").symlink_to(tiny_llama)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTCLUSTER_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs(command: str) -> None:
    with ModelServer() as server:
        words = [word.replace("http://localhost:8000/v1", server.url) for word in shlex.split(command)]
        assert words[0] == "ftcluster"
        assert main(words[1:]) == 0


def test_every_verb_is_shown() -> None:
    for verb in ("check", "preview", "convert", "split", "sample", "invert", "formats"):
        assert any(f"ftcluster data {verb}" in command for command in COMMANDS)


def test_the_thresholds_are_those_of_the_program() -> None:
    def said(share: float) -> str:
        return "never" if share == NEVER else f"{100 * share:g} %" if share else "0"

    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", PAGE.split("## The report")[1], re.MULTILINE)
    assert {name: warn for name, warn, _ in rows} == {name: said(share) for name, share in WARN.items()}
    refused = {name: refuse for name, _, refuse in rows if name != "unusable"}
    assert refused == {name: said(share) for name, share in REFUSE.items() if name != "unusable"}
