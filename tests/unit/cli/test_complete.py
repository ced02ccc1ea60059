"""Completion knows groups, options, keys and values, in bash too, which cuts words at equals signs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftcluster.cli.complete import complete_data, complete_format, complete_override, complete_run, complete_sweep
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger


def words(incomplete: str) -> list[str]:
    return [word for word, _ in complete_override(incomplete)]


def test_a_group_completes_to_its_options_with_what_they_are() -> None:
    assert words("mod") == ["model=", "model."]
    assert words("model=") == ["model=folder", "model=tiny"]
    assert words("model=t") == ["model=tiny"]
    assert dict(complete_override("adapter="))["adapter=none"].startswith("No adapter")


def test_a_section_completes_to_its_keys() -> None:
    assert "optim.lr=" in words("optim.")
    assert words("optim.warm") == ["optim.warmup="]
    assert "seed=" in words("")


def test_a_key_completes_to_its_values_where_they_are_known() -> None:
    assert words("engine.device=") == ["engine.device=auto", "engine.device=cpu", "engine.device=cuda"]
    assert words("adapter.rslora=") == ["adapter.rslora=true", "adapter.rslora=false"]
    assert words("metric=eval/l") == ["metric=eval/loss"]
    assert words("sampler.name=gr") == ["sampler.name=grid"]
    assert words("optim.lr=") == []


def test_sweeps_complete_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "my").mkdir()
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    assert [word for word, _ in complete_sweep("m")] == ["my/", "mine.yaml"]


def test_data_files_complete_by_path_and_their_formats_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rows.jsonl", "rows.csv.gz", "rows.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "rows").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [word for word, _ in complete_data("ro")] == ["rows/", "rows.csv.gz", "rows.jsonl"]
    assert [word for word, _ in complete_data("data.too_long=d")] == ["data.too_long=drop"]
    assert complete_format("al") == ["alpaca"]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_bash_completes_what_follows_the_equals_sign(tmp_path: Path) -> None:
    command = tmp_path / "ftcluster"
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom ftcluster.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    script = f"""
    PATH={tmp_path}:$PATH
    eval "$(_FTCLUSTER_COMPLETE=source_bash ftcluster)"
    try() {{
        COMP_WORDS=("$@"); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); COMPREPLY=()
        _ftcluster_completion ftcluster
        echo "${{COMPREPLY[*]}}"
    }}
    try ftcluster comp
    try ftcluster config show model =
    try ftcluster config show seed = 3 model = ti
    try ftcluster config show seed = 3 engine.dev
    """
    output = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["compare", "folder tiny", "tiny", "engine.device="]


def test_names_of_runs_complete_from_the_ledger_of_the_home_newest_first(tmp_path: Path) -> None:
    typed = cast(Any, SimpleNamespace(params={"home": tmp_path}))
    assert complete_run(typed, "") == []
    with Ledger.open(tmp_path) as ledger:
        for name in ("rates", "rates-2", "other"):
            ledger.add(RunRow(name=name, kind="sweep", folder=str(tmp_path / name), config={}))
    assert complete_run(typed, "rat") == [("rates-2", "sweep, waiting"), ("rates", "sweep, waiting")]
    assert {name for name, _ in complete_run(typed, "")} == {"rates", "rates-2", "other"}


def test_a_file_that_is_no_ledger_completes_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database")
    assert complete_run(cast(Any, SimpleNamespace(params={"home": tmp_path})), "") == []
