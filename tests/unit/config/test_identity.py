"""Two runs are the same when everything that decides their result is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ftcluster.config.compose import compose, from_dict, override, to_dict
from ftcluster.config.identity import canonical, identity
from ftcluster.config.schema import RunConfig


def test_equal_configs_have_equal_identities_however_they_were_written() -> None:
    one = compose(["experiment=lora_sft", "optim.lr=1e-3"])
    other = from_dict(json.loads(json.dumps(to_dict(override(compose(["experiment=lora_sft"]), ["optim.lr=0.001"])))))
    assert identity(one) == identity(other)
    assert len(identity(one)) == 64


@pytest.mark.parametrize(
    "word", ["name=x", "home=/x", "tracking.uri=http://x", "tracking.experiment=x", "cluster.cpus=7", "cluster.gpus=1"]
)
def test_where_a_run_is_kept_and_placed_does_not_matter(word: str) -> None:
    assert identity(compose([word])) == identity(compose([]))


@pytest.mark.parametrize(
    "word",
    [
        "seed=1",
        "model.path=/x",
        "data.limit=1",
        "adapter.rank=3",
        "objective=pretrain",
        "optim.lr=1",
        "engine=local",
        "data.columns={a:b}",
        "evaluation.generate=1",
    ],
)
def test_what_decides_the_result_matters(word: str) -> None:
    assert identity(compose([word])) != identity(compose([]))


def test_every_section_is_either_inside_or_named_as_outside() -> None:
    inside = set(json.loads(canonical(RunConfig())))
    assert {field.name for field in fields(RunConfig)} - inside == {"name", "home", "tracking", "cluster"}


def test_another_python_process_finds_the_same_identity(tmp_path: Path) -> None:
    code = (
        "import json, sys; from ftcluster.config.compose import from_dict;"
        "from ftcluster.config.identity import identity;"
        "print(identity(from_dict(json.loads(sys.argv[1]))))"
    )
    config = compose(["data.train=[数据.jsonl]", f"home={tmp_path}"])
    output = subprocess.run(
        [sys.executable, "-c", code, json.dumps(to_dict(config))], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == identity(config)
