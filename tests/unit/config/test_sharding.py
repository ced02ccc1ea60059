"""Which engine trains a trial of several processes, and what is said of combinations that cannot be."""

from __future__ import annotations

import pytest

from ftcluster.config.checks import check
from ftcluster.config.compose import compose
from ftcluster.config.sharding import shards
from ftcluster.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["cluster.ranks=2"], True),
        (["engine.name=deepspeed"], True),
        (["engine=zero3"], True),
        (["engine=local", "cluster.ranks=2"], False),
        (["engine=packed"], False),
        (["engine=packed", "cluster.ranks=2"], True),
        (["engine=packed_zero3"], True),
    ],
)
def test_several_ranks_or_its_name_mean_deepspeed(words: list[str], expected: bool) -> None:
    assert shards(compose(words)) is expected


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["engine=local", "cluster.ranks=2"], "engine.name=local cannot; use engine=deepspeed, or cluster.ranks=1"),
        (["engine.stage=3"], "engine.stage is DeepSpeed's and engine.name=auto; use engine=deepspeed"),
        (["engine=packed", "engine.hpz=2"], "engine.hpz is DeepSpeed's"),
        (["cluster.ranks=2", "cluster.gpus=0.5"], "cluster.gpus=0.5 is per rank"),
        (["engine=zero3", "engine.stage=7"], "engine.stage=7 must be 0, 1, 2 or 3"),
        (["engine=zero3", "engine.offload_optimizer=disk"], "engine.offload_optimizer"),
        (["cluster.ranks=0"], "cluster.ranks"),
        (
            ["engine=packed", "engine.stage=2", "cluster.ranks=2"],
            "leaves the base whole on every rank; use engine.stage=3",
        ),
    ],
)
def test_what_cannot_be_is_told_with_a_remedy(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose(["model=folder", "model.path=/m", *words]))
    assert problem in str(caught.value)


def test_what_can_be_is_not() -> None:
    for words in (
        ["engine=zero3", "cluster.ranks=4", "cluster.gpus=1"],
        ["cluster.ranks=2", "engine.stage=1"],
        ["engine=packed_zero3", "cluster.ranks=2"],
    ):
        check(compose(["model=folder", "model.path=/m", *words]))
