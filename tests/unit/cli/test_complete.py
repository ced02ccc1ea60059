"""Completion knows groups, options, keys and values, in bash too, which cuts words at equals signs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftcluster.cli.complete import complete_override, complete_sweep


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
    assert words("sampler.name=g") == ["sampler.name=grid"]
    assert words("optim.lr=") == []


def test_sweeps_complete_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "my").mkdir()
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    assert [word for word, _ in complete_sweep("m")] == ["my/", "mine.yaml"]


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
