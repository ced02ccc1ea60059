"""What DeepSpeed cannot do, and what a file of the user's own contradicts, is told before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcluster.config.compose import compose
from ftcluster.config.schema import RunConfig
from ftcluster.errors import ConfigError
from ftcluster.training.sharding import check_layout


def layout(tmp_path: Path, own: dict[str, Any] | None, *words: str) -> RunConfig:
    file = tmp_path / "own.json"
    file.write_text(json.dumps(own))
    more = [f"engine.deepspeed_json={file}"] if own is not None else []
    return compose(["engine.name=deepspeed", "cluster.ranks=2", *more, *words])


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (None, ["engine.stage=3", "engine.offload_parameters=cpu"]),
        ({"zero_optimization": {"stage": 3, "reduce_bucket_size": 1000}}, ["engine.offload_parameters=cpu"]),
        ({"bf16": {"enabled": True}}, ["adapter=lora"]),
        ({"bf16": {"enabled": False}}, ["adapter=lora"]),
    ],
)
def test_what_some_device_could_do_is_no_problem(tmp_path: Path, own: dict[str, Any] | None, words: list[str]) -> None:
    check_layout(layout(tmp_path, own, *words))


@pytest.mark.parametrize(
    ("own", "words", "told"),
    [
        (None, ["engine.stage=2", "engine.offload_parameters=cpu"], "needs engine.stage=3"),
        ({"zero_optimization": {"stage": 1}}, ["engine.stage=2"], r"zero_optimization.stage is 1 in .*own.json, but"),
        ({"bf16": {"enabled": True}}, ["engine.precision=fp32"], "bf16.enabled is true .* engine.precision says false"),
        (
            {"bf16": {"enabled": True}, "gradient_clipping": 7.0},
            ["adapter=lora"],
            "^[^\n]*own.json: gradient_clipping is 7.0",
        ),
    ],
)
def test_what_no_device_can_do_is_told_and_nothing_else(
    tmp_path: Path, own: dict[str, Any] | None, words: list[str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        check_layout(layout(tmp_path, own, *words))
