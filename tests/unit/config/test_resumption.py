"""What goes on may be computed in another way; nothing that decides its result may change."""

from __future__ import annotations

import pytest

from ftcluster.config.compose import compose
from ftcluster.config.resumption import changes, resumed
from ftcluster.config.schema import RunConfig
from ftcluster.errors import ConfigError


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return compose(["experiment=lora_sft", "optim.batch_size=16", "optim.micro_batch=16"])


def test_words_for_layout_and_passes_are_taken_and_leave_the_rest_alone(config: RunConfig) -> None:
    words = ["cluster.ranks=2", "engine.stage=3", "engine.offload_optimizer=cpu", "optim.micro_batch=4"]
    after = resumed(config, [*words, "cluster.hang_after=60", "engine.activation_checkpointing=true"])
    assert changes(config, after) == {
        "cluster.ranks": "2",
        "cluster.hang_after": "60.0",
        "engine.stage": "3",
        "engine.offload_optimizer": "cpu",
        "engine.activation_checkpointing": "true",
        "optim.micro_batch": "4",
    }
    assert changes(after, after) == {}
    assert resumed(config, []) == config


@pytest.mark.parametrize(
    "word",
    [
        "optim.lr=1",
        "optim.batch_size=8",
        "seed=3",
        "data.train=[x.jsonl]",
        "data.columns.text=body",
        "adapter.rank=2",
        "engine.precision=bf16",
        "engine.device=cpu",
        "evaluation.every=2 steps",
        "name=other",
        "home=/elsewhere",
        "engine=zero3",
        "optim={lr: 1}",
    ],
)
def test_words_for_anything_else_are_refused_with_those_that_would_do(config: RunConfig, word: str) -> None:
    with pytest.raises(ConfigError, match="may change the result, and what goes on keeps what it began with") as caught:
        resumed(config, [word])
    assert "start anew with it; these may change: cluster.*, engine.name, " in caught.value.remedy


def test_a_sweeps_own_keys_are_refused(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"the sweep's space depends on cluster\.ranks, so its trials keep theirs"):
        resumed(config, ["cluster.ranks=2"], swept={"cluster.ranks"})


def test_everything_that_is_wrong_is_told_at_once(config: RunConfig) -> None:
    with pytest.raises(ConfigError) as caught:
        resumed(config, ["seed=3", "nonsense", "engine.name=local", "cluster.ranks=2", "optim.micro_batch=5"])
    text = str(caught.value)
    assert "seed=3 may change the result" in text
    assert '"nonsense" is not an override' in text
    assert "cluster.ranks=2 shards a trial and engine.name=local cannot" in text
    assert "optim.batch_size=16 is no multiple of optim.micro_batch=5" in text
    with pytest.raises(ConfigError, match=r"cluster\.rank is not a known key\. Did you mean cluster\.ranks\?"):
        resumed(config, ["cluster.rank=2"])
