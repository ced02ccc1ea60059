"""What can be configured is read from the schema and the files, never written down twice."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from ftcluster.config.catalog import describe, experiments, groups, known_keys, section_comments
from ftcluster.config.schema import RunConfig
from ftcluster.config.suggest import did_you_mean, nearest


def test_every_key_has_its_type_default_and_the_comment_beside_it() -> None:
    keys = known_keys()
    assert keys["optim.warmup"] == (float, 0.03, "share of all steps")
    assert keys["adapter.targets"] == (list[str], ["all-linear"], "module names, or all-linear")
    assert keys["data.train"].comment == "files, folders, URLs, or hub:owner/name"
    assert "optim" not in keys


def test_every_section_has_a_comment() -> None:
    assert section_comments()["optim"] == "AdamW, its schedule, and how long."
    sections = {field.name for field in fields(RunConfig)} - {"name", "seed", "home"}
    assert set(section_comments()) == sections


def test_groups_list_what_is_shipped_and_what_the_user_adds(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "qwen.yaml").write_text("# @package model\n# ftcluster train model=qwen\n# Ours.\npath: /m\n")
    assert groups(tmp_path)["model"] == ["folder", "qwen", "tiny"]
    assert list(groups())[-1] == "experiment"
    assert experiments() == groups()["experiment"]
    assert describe("model", "qwen", tmp_path) == "Ours."
    assert describe("model", "nothing", tmp_path) == ""


def test_nearest_finds_slips_of_the_pen_last_parts_and_foreign_names_but_no_noise() -> None:
    known = ["optim.lr", "optim.final_lr", "adapter.rank", "model.path"]
    assert nearest("optim.rl", known) == ["optim.lr"]
    assert nearest("rank", known) == ["adapter.rank"]
    assert nearest("learning_rate", known)[0] == "optim.lr"
    assert nearest("zzz", known) == []


def test_did_you_mean_reads_as_a_sentence() -> None:
    assert did_you_mean("x", []) == ""
    assert did_you_mean("loss", ["loss"]) == " Did you mean loss?"
    assert did_you_mean("abc", ["abd", "abe"]) == " Did you mean abd or abe?"
    assert did_you_mean("abc", ["abd", "abe", "abf"]) == " Did you mean abd, abe or abf?"
