"""DeepSpeed's JSON from our settings, with a user's own file beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ftcluster.engine.precision import Precision
from ftcluster.engine.sharded.settings import ShardedSettings, deepspeed_config, read_own, stage_of
from ftcluster.errors import ConfigError

FP32 = Precision(torch.float32)


def _derive(file: dict[str, object] | None = None, ranks: int = 4, clip: float = 1.0, **settings: object) -> dict:
    return deepspeed_config(ShardedSettings(**settings), FP32, clip=clip, ranks=ranks, own=file)


def _problems(file: dict[str, object] | None = None, ranks: int = 4, **settings: object) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        _derive(file, ranks, **settings)
    return raised.value.problems


def test_everything_said_arrives_in_deepspeeds_words() -> None:
    fast = Path("/nvme")
    said = _derive(stage=3, offload_optimizer="cpu", offload_parameters="nvme", nvme=fast, hpz=2, clip=0.5)
    zero = said["zero_optimization"]
    assert (zero["stage"], zero["zero_hpz_partition_size"]) == (3, 2)
    assert zero["offload_optimizer"] == {"device": "cpu"}
    assert zero["offload_param"] == {"device": "nvme", "nvme_path": "/nvme"}
    assert said["gradient_clipping"] == 0.5
    assert json.loads(json.dumps(said)) == said


def test_nothing_said_is_stage_2_and_a_file_decides_before_that() -> None:
    assert stage_of(_derive()) == 2
    assert stage_of(_derive({"zero_optimization": {"stage": 3}})) == 3


def test_the_loop_owns_the_boundaries_of_accumulation_whatever_the_stage() -> None:
    for stage in range(4):
        said = _derive(stage=stage)
        assert (said["managed_gradient_accumulation"], said["gradient_accumulation_steps"]) == (False, 1)
        assert said["zero_optimization"]["overlap_comm"] is (stage == 2)


def test_bf16_products_on_fp32_weights_are_autocast_and_bf16_weights_are_deepspeeds_own() -> None:
    mixed = deepspeed_config(ShardedSettings(), Precision(torch.float32, torch.bfloat16), clip=0, ranks=1)
    assert mixed["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert mixed["bf16"] == {"enabled": False}
    low = deepspeed_config(ShardedSettings(), Precision(torch.bfloat16, torch.bfloat16), clip=0, ranks=1)
    assert (low["bf16"], low["torch_autocast"]) == ({"enabled": True}, {"enabled": False})


def test_a_file_may_say_how_it_is_computed() -> None:
    own = {"zero_optimization": {"reduce_bucket_size": 1000, "overlap_comm": False}, "comms_logger": {"enabled": True}}
    said = _derive(own, stage=2)
    assert said["zero_optimization"]["reduce_bucket_size"] == 1000
    assert said["zero_optimization"]["overlap_comm"] is False
    assert said["comms_logger"] == {"enabled": True}


def test_a_file_written_for_other_trainers_may_leave_things_open() -> None:
    own = {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"},
    }
    said = _derive(own, clip=0.25)
    assert "optimizer" not in said
    assert (said["gradient_clipping"], said["bf16"]["enabled"]) == (0.25, False)
    assert said["zero_optimization"]["reduce_bucket_size"] == 50_000_000


def test_every_conflict_is_named_with_both_values() -> None:
    own = {
        "gradient_clipping": 5.0,
        "gradient_accumulation_steps": 4,
        "optimizer": {"type": "Adam", "params": {"lr": 0.1}},
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    }
    assert _problems(own, stage=3, offload_optimizer="none", own=Path("my.json")) == [
        "optimizer is set by optim.*; take it out of the file",
        "gradient_accumulation_steps is set by optim.batch_size and optim.micro_batch; take it out of the file",
        "gradient_clipping is 5.0 in my.json, but optim.clip says 1.0",
        "zero_optimization.stage is 2 in my.json, but engine.stage says 3",
        'zero_optimization.offload_optimizer.device is "cpu" in my.json, but engine.offload_optimizer says "none"',
    ]


def test_equal_values_in_both_places_are_no_conflict() -> None:
    assert stage_of(_derive({"zero_optimization": {"stage": 3}, "gradient_clipping": 1.0}, stage=3)) == 3


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"stage": 4}, "engine.stage is 4; it is 0, 1, 2 or 3"),
        ({"stage": 2, "offload_parameters": "cpu"}, "engine.offload_parameters needs engine.stage=3"),
        ({"stage": 0, "offload_optimizer": "cpu"}, "engine.offload_optimizer needs engine.stage=1, 2 or 3"),
        ({"stage": 2, "offload_optimizer": "nvme", "nvme": Path("/n")}, "offload to nvme needs engine.stage=3"),
        ({"stage": 3, "offload_optimizer": "nvme"}, "offload to nvme needs engine.nvme"),
        ({"stage": 3, "offload_optimizer": "disk"}, "offload_optimizer to disk; it is one of none, cpu, nvme"),
        ({"stage": 3, "hpz": 3}, "engine.hpz is 3; it divides the 4 ranks"),
        ({"stage": 2, "hpz": 2}, "engine.hpz is 2; it divides the 4 ranks of a trial with engine.stage=3"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused_beforehand(settings: dict[str, object], problem: str) -> None:
    (found,) = _problems(None, **settings)
    assert problem in found


def test_a_file_that_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    broken, listed = tmp_path / "broken.json", tmp_path / "list.json"
    broken.write_text("{")
    listed.write_text("[]")
    for path, problem in ((tmp_path / "none.json", "cannot be read"), (broken, "cannot be read"), (listed, "no")):
        with pytest.raises(ConfigError, match=problem) as raised:
            read_own(path)
        assert str(path) in str(raised.value)
    listed.write_text('{"zero_optimization": {"stage": 1}}')
    assert read_own(listed) == {"zero_optimization": {"stage": 1}}
