"""Every shipped YAML composes, says what it is, and is as safe as a user's file has to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcluster.config.catalog import describe, experiments, groups
from ftcluster.config.checks import check
from ftcluster.config.compose import compose
from ftcluster.config.environment import conf_folder
from ftcluster.config.yamlfile import read

OPTIONS = [(group, option) for group, options in groups().items() for option in options]
OWN = {"folder": ["model.path=/m"], "jsonl": ["data.train=[/rows.jsonl]"], "gsm8k": ["data.train=[/rows.jsonl]"]}
GROUPS = {"model", "data", "adapter", "objective", "optim", "engine", "evaluation", "tracking", "cluster", "experiment"}


def test_there_is_a_folder_for_every_group_of_the_schema() -> None:
    assert set(groups()) == GROUPS


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_breaks_no_rule(group: str, option: str) -> None:
    fitting = ["data=pretrain_demo"] if option == "pretrain" else []
    fitting += ["objective=pretrain"] if option == "pretrain_demo" else []
    check(compose([f"{group}={option}", *fitting, *OWN.get(option, [])]))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_says_in_a_line_what_it_is(group: str, option: str) -> None:
    assert 15 < len(describe(group, option)) < 120


@pytest.mark.parametrize("name", experiments())
def test_the_first_comment_of_an_experiment_is_the_command_that_runs_it(name: str) -> None:
    lines = (conf_folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# @package _global_", f"# ftcluster train experiment={name}"]


@pytest.mark.parametrize("path", sorted(conf_folder().rglob("*.yaml")), ids=lambda path: str(path.stem))
def test_shipped_files_obey_the_rules_for_users_files(path: Path) -> None:
    assert read(path).content


def test_a_copy_of_conf_as_the_users_folder_changes_nothing() -> None:
    for name in experiments():
        assert compose([f"experiment={name}"], config_dir=conf_folder()) == compose([f"experiment={name}"])


def test_every_line_of_the_defaults_list_has_a_comment() -> None:
    lines = (conf_folder() / "config.yaml").read_text(encoding="utf-8").split("defaults:")[1].split("\n\n")[0]
    assert all("#" in line for line in lines.strip().splitlines())
