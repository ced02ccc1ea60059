"""``ftcluster config``: groups, show and check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcluster.cli import main
from ftcluster.cli.config import commented_yaml
from ftcluster.config.compose import compose, from_dict, to_dict


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_groups_are_listed_with_what_each_option_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path / "model" / "ours.yaml", "# The team's model.\npath: /m\n")
    assert main(["config", "groups", "--json", "--config-dir", str(tmp_path)]) == 0
    groups = json.loads(capsys.readouterr().out)
    assert groups["model"]["ours"] == "The team's model."
    assert all(text for options in groups.values() for text in options.values())
    assert main(["config", "groups"]) == 0
    assert "lora_qv" in capsys.readouterr().out


def test_show_prints_every_key_with_its_comment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "optim.lr=1e-3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  lr: 0.001" in lines
    assert any(line.startswith("  warmup: 0.03 ") and line.endswith("# share of all steps") for line in lines)
    assert "# AdamW, its schedule, and how long." in lines


def test_show_json_is_the_whole_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "experiment=smoke", "--json"]) == 0
    assert from_dict(json.loads(capsys.readouterr().out)) == compose(["experiment=smoke"])


def test_show_deepspeed_is_what_deepspeed_is_given_with_the_users_own_file_in_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["config", "show", "engine=zero3", "cluster.ranks=4", "--deepspeed"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["zero_optimization"]["stage"] == 3
    own = write(tmp_path / "own.json", json.dumps({"zero_optimization": {"reduce_bucket_size": 12345}}))
    assert main([*words, f"engine.deepspeed_json={own}"]) == 0
    found = json.loads(capsys.readouterr().out)["zero_optimization"]
    assert (found["stage"], found["reduce_bucket_size"]) == (3, 12345)
    own.write_text(json.dumps({"zero_optimization": {"stage": 1}, "optimizer": {"type": "Adam", "params": {"lr": 1}}}))
    assert main([*words, f"engine.deepspeed_json={own}"]) == 2
    told = capsys.readouterr().err
    assert "zero_optimization.stage" in told
    assert "optimizer" in told, "all conflicts at once"


def test_what_show_prints_composes_again_to_the_same_config(tmp_path: Path) -> None:
    config = compose(["experiment=lora_sft", "data.train=['a, b.jsonl','数据.jsonl']", "name=007", "optim.eps=1e-9"])
    write(tmp_path / "experiment" / "again.yaml", commented_yaml(to_dict(config)))
    assert compose(["experiment=again"], config_dir=tmp_path) == config


def test_check_passes_a_sound_experiment(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write(tmp_path / "mine.yaml", "# @package _global_\noptim:\n  lr: 1e-3\n")
    assert main(["config", "check", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: no problems found\n"


def test_check_lists_wrong_keys_of_an_experiment_with_their_lines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write(tmp_path / "mine.yaml", "# @package _global_\noptim:\n  rl: 1e-3\nseed: x\n")
    assert main(["config", "check", str(file)]) == 2
    error = capsys.readouterr().err
    assert f"{file}:3: optim.rl is not a known key." in error
    assert f"{file}:4: seed=x: expected a whole number, got text." in error


def test_check_lists_broken_rules_and_takes_words_that_mend_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write(tmp_path / "mine.yaml", "# @package _global_\noptim: {lr: 0}\nadapter: {rank: 0}\n")
    assert main(["config", "check", str(file)]) == 2
    error = capsys.readouterr().err
    assert "optim.lr=0 must be above 0." in error
    assert "adapter.rank=0 must be at least 1." in error
    assert main(["config", "check", str(file), "optim.lr=1", "adapter.rank=1"]) == 0


def test_check_uses_the_users_groups(tmp_path: Path) -> None:
    write(tmp_path / "conf" / "optim" / "slow.yaml", "lr: 1e-6\n")
    text = "# @package _global_\ndefaults:\n  - override /optim: slow\n"
    file = write(tmp_path / "mine.yaml", text)
    assert main(["config", "check", str(file)]) == 2
    assert main(["config", "check", str(file), "--config-dir", str(tmp_path / "conf")]) == 0


def test_check_lists_all_problems_of_a_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write(
        tmp_path / "s.yaml",
        "base: [experiment=lora_sft, optim.warmup=2]\nspace:\n  optim.lr: interval(2, 1)\nmetric: train/loss\n",
    )
    assert main(["config", "check", str(file)]) == 2
    error = capsys.readouterr().err
    assert "optim.warmup=2 must be at least 0 and below 1." in error
    assert "never select on training loss" in error
    assert "space.optim.lr" in error


def test_check_passes_every_shipped_sweep_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    from ftcluster.config.environment import sweeps_folder

    for file in sweeps_folder().glob("*.yaml"):
        words = ["model.path=/m", "data.train=[/rows.jsonl]"]
        assert main(["config", "check", file.stem, *words]) == 0, capsys.readouterr().err


def test_check_of_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "nothing.yaml"]) == 2
    assert "nothing.yaml: no such sweep file." in capsys.readouterr().err


def test_a_config_dir_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["config", "groups", "--config-dir", str(tmp_path / "gone")]) == 2
    assert "doesnotexist" in "".join(capsys.readouterr().err.replace("│", "").split())  # a box folds its text


def test_check_lists_problems_of_a_sweeps_base_and_space_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write(tmp_path / "s.yaml", "base: [experiment=lora_sft]\nspace: {optim.lr: 'choice(0, 1)'}\nmetric: los\n")
    assert main(["config", "check", str(file), "optim.clip=-1"]) == 2
    error = capsys.readouterr().err
    assert "optim.clip=-1 must be at least 0." in error
    assert "metric=los does not exist." in error
    assert "optim.lr=0 must be above 0." in error
