"""What of a folder travels with a job, and what stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcluster.cluster import parcel
from ftcluster.cluster.parcel import choose
from ftcluster.errors import UsageError


def write(folder: Path, name: str, content: str = "x") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)


def test_configs_sweeps_and_small_data_travel_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("conf/model/qwen.yaml", "sweeps/lora.yaml", "rows.jsonl"):
        write(source, name, name)
    chosen = choose(source)
    chosen.unfold(tmp_path / "there")
    found = {path.relative_to(tmp_path / "there"): path.read_text() for path in (tmp_path / "there").rglob("*.*")}
    assert found == {path: str(path) for path in chosen.files}
    assert (len(found), chosen.left_out, chosen.size) == (3, (), sum(len(str(path)) for path in chosen.files))


def test_runs_environments_weights_and_links_to_folders_stay_and_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcel, "LARGEST", 100)
    for name in ("runs/ledger.db", "runs/a/spool.jsonl", "python/pyvenv.cfg", "ftcluster/cli/app.py", "kept.yaml"):
        write(tmp_path, name)
    write(tmp_path, "model/model.safetensors", "x" * 101)
    (tmp_path / "linked").symlink_to(tmp_path / "model")
    chosen = choose(tmp_path)
    assert chosen.files == (Path("kept.yaml"),)
    assert chosen.left_out == (
        "ftcluster (this program)",
        "linked (a link to a folder)",
        "model/model.safetensors (101 B; files above 100 B stay)",
        "python (a virtual environment)",
        "runs (a home of runs)",
    )


def test_hidden_files_and_caches_stay_without_a_word(tmp_path: Path) -> None:
    for name in (".env", ".git/config", "conf/.secret", "__pycache__/a.pyc"):
        write(tmp_path, name)
    assert (choose(tmp_path).files, choose(tmp_path).left_out) == ((), ())


@pytest.mark.parametrize(("limit", "text"), [("MOST", "more than 2 files"), ("HEAVIEST", "more than 2 B")])
def test_a_folder_that_holds_too_much_is_refused_before_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, text: str
) -> None:
    monkeypatch.setattr(parcel, limit, 2)
    for number in range(3):
        write(tmp_path, f"{number}.yaml")
    with pytest.raises(UsageError, match=f"it holds {text} that would travel") as caught:
        choose(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert "--working-dir" in caught.value.remedy


def test_no_such_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it cannot be read: No such file or directory") as caught:
        choose(tmp_path / "nowhere")
    assert caught.value.where == str(tmp_path / "nowhere")
