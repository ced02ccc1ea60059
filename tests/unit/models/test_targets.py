"""Which layers an adapter may sit on, by the names users know."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_samples import save_sample

from ftcluster.contracts.ports import AdapterSettings
from ftcluster.errors import ModelError
from ftcluster.models import adapters
from ftcluster.models.base import load_base, skeleton
from ftcluster.models.targets import linear_names, resolve_targets

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_all_linear_is_every_linear_layer_but_the_output_head(tiny_qwen2: Path) -> None:
    assert resolve_targets(skeleton(tiny_qwen2), ["all-linear"]) == LAYERS


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("gpt2", ["c_attn", "c_proj", "c_fc"]),
        ("gpt_neox", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]),
        ("opt", ["k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2"]),
    ],
)
def test_other_architectures_call_their_layers_otherwise(tmp_path: Path, architecture: str, names: list[str]) -> None:
    assert linear_names(skeleton(save_sample(architecture, tmp_path / architecture))) == names


def test_chosen_names_come_in_the_models_order_whatever_the_users(tiny_qwen2: Path) -> None:
    assert resolve_targets(skeleton(tiny_qwen2), ["v_proj", "q_proj"]) == ["q_proj", "v_proj"]


def test_an_unknown_name_lists_those_there_and_the_nearest(tiny_qwen2: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_targets(skeleton(tiny_qwen2), ["q_prj", "zzz", "v_proj"])
    assert str(caught.value) == (
        "adapter.targets: Qwen2ForCausalLM has no linear layer called q_prj, zzz; did you mean q_proj?\n"
        f"  -> choose from: {', '.join(LAYERS)}, or all-linear"
    )


def test_the_output_head_is_no_target(tiny_qwen2: Path) -> None:
    with pytest.raises(ModelError, match="no linear layer called lm_head"):
        resolve_targets(skeleton(tiny_qwen2), ["lm_head"])


def test_no_target_at_all_is_refused(tiny_qwen2: Path) -> None:
    with pytest.raises(ModelError, match=r"no target given\n  -> choose from: q_proj"):
        resolve_targets(skeleton(tiny_qwen2), [])


def test_a_base_that_already_carries_adapters_shows_the_same_layers(tiny_qwen2: Path) -> None:
    base = load_base(tiny_qwen2)
    for name, targets in (("slot0", ("all-linear",)), ("slot1", ("q_proj",))):
        adapters.attach(base, name, AdapterSettings(rank=2, alpha=2.0, targets=targets), seed=1)
        assert linear_names(base.model) == LAYERS
