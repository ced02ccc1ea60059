"""``ftcluster plan``: tables for people, JSON for programs, and errors that say what to write instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from ftcluster.cli import main
from ftcluster.config.compose import compose
from ftcluster.engine.packed.bank import Bank, Site
from ftcluster.errors import UsageError
from ftcluster.models.base import skeleton
from ftcluster.models.memory import Layout
from ftcluster.models.targets import linear_layers, weight_of
from ftcluster.training.planning import _settings, _step, parse_memory, training_of, wishes_of

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a billion numbers, without weights or tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ).save_pretrained(folder)
    return folder


def words(model: Path, *more: str) -> list[str]:
    return ["plan", "model=folder", f"model.path={model}", *more]


def planned(capsys: pytest.CaptureFixture[str], model: Path, *more: str) -> dict[str, Any]:
    assert main([*words(model, *more), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_lora_plan_is_a_table_a_choice_and_how_many_trials_fit(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(model, "adapter=lora", "data.max_length=512"), "--gpu-memory", "24GiB"]) == 0
    text = capsys.readouterr().out
    assert "494 M parameters, trains an adapter of" in text
    assert "GPUs  stage  offload" in text
    assert "chosen" in text
    assert "fits 1 x 24.0 GiB: one GPU on its own, " in text
    assert "a step: at most 8,192 tokens in " in text
    assert "on one GPU of a sweep, on one base: engine.mode=fast cluster.trials_per_host=" in text


def test_json_has_every_candidate_with_its_bytes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, model, "adapter=none", "--gpus", "4", "--gpu-memory", "8GiB")
    total = found["numbers"]["total"]
    assert total == 494_032_768
    by_way = {(each["gpus"], each["stage"], each["offload"]): each["bytes"] for each in found["candidates"]}
    assert by_way[1, 0, "none"]["optimizer"] == 8 * total, "fp32 weights are their own masters"
    assert by_way[4, 2, "none"]["optimizer"] == 12 * total / 4
    assert by_way[4, 3, "none"]["weights"] == 4 * total / 4
    assert by_way[4, 3, "parameters"]["host"] > by_way[4, 3, "optimizer"]["host"] > 0
    chosen = found["chosen"]
    assert chosen["bytes"]["on_gpu"] <= 0.95 * 8 * 2**30 - 2**30
    assert found["step"]["micro_batch"] * found["step"]["passes"] == 16
    assert (chosen["stage"], chosen["checkpointing"], chosen["rows"]) == (2, True, 4)
    assert found["settings"] == ["engine.activation_checkpointing=true", "cluster.ranks=4", "engine.stage=2"]
    assert found["trials_beside"] is None


def test_the_words_to_say_are_those_that_differ(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("adapter=lora", "data.max_length=4096", "--gpu-memory", "16GiB")
    found = planned(capsys, model, *more)
    rows = found["chosen"]["rows"]
    assert rows < 16
    assert f"optim.micro_batch={rows}" in found["settings"]
    filled = planned(capsys, model, *more, "optim.micro_tokens=65536", "optim.micro_batch=1")
    assert f"optim.micro_tokens={rows * 4096}" in filled["settings"]


def test_stage_and_offload_are_kept_to(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("adapter=none", "--gpus", "2", "--gpu-memory", "80GiB", "--stage", "3", "--offload", "optimizer")
    chosen = planned(capsys, model, *more)["chosen"]
    assert (chosen["stage"], chosen["offload"]) == (3, "optimizer")


def test_where_nothing_fits_it_says_what_would_and_a_script_does_not_go_on(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*words(model, "adapter=none"), "--gpu-memory", "6GiB", "--offload", "none"]
    assert main([*asked, "--json"]) == UsageError.exit_code
    assert json.loads(capsys.readouterr().out)["chosen"] is None
    assert main(asked) == UsageError.exit_code
    text = capsys.readouterr().out
    assert "does not fit 1 x 6.0 GiB" in text
    assert "would fit: a GPU of 12 GiB: one GPU on its own" in text
    assert "would fit: adapter=lora: one GPU on its own" in text


@WITHOUT_GPU
def test_without_a_gpu_it_says_which_sizes_would_do(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(model, "adapter=lora")) == 0
    text = capsys.readouterr().out
    assert "There is no GPU here. What a GPU of each size would do, up from the first that will:" in text
    assert "8 GiB  one GPU on its own" in text
    assert "fits" not in text


def test_what_the_config_tells_deepspeed_is_kept_to_and_not_said_again(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ("adapter=none", "cluster.ranks=2", "engine.stage=3", "engine.offload_optimizer=cpu")
    found = planned(capsys, model, *told, "--gpu-memory", "80GiB")
    assert (found["chosen"]["gpus"], found["chosen"]["stage"], found["chosen"]["offload"]) == (2, 3, "optimizer")
    assert not any(word.startswith(("cluster.", "engine.stage", "engine.off")) for word in found["settings"])


def test_words_that_offload_are_those_of_the_config() -> None:
    base = ["experiment=lora_sft", "model.path=/m"]
    for adapter, expected in (("none", ["optimizer", "parameters"]), ("lora", ["parameters"])):
        config = compose([*base, f"adapter={adapter}"])
        layout = Layout(1, 3, "parameters", False, 16)
        assert _settings(config, layout, _step(config, layout)) == [
            "engine.stage=3",
            "engine.name=deepspeed",
            *(f"engine.offload_{what}=cpu" for what in expected),
        ]
        said = compose([*base, f"adapter={adapter}", "engine.offload_parameters=cpu", "engine.stage=2"])
        stage = 2 if adapter == "none" else 0
        assert (wishes_of(said, 2).stage, wishes_of(said, 2).offload) == (stage, "parameters")
        assert wishes_of(said, 1).stage is None, "on one GPU there is no DeepSpeed unless it is named"


def test_a_memory_is_a_number_and_a_unit() -> None:
    assert parse_memory("80GiB") == parse_memory(" 81920 mib ") == 80 * 2**30
    assert parse_memory("1.5 TiB") == 1.5 * 2**40
    assert parse_memory("80GB") == 80 * 10**9
    for text in ("80", "80 giga", "-3GiB", "0GiB", "80GiBs", ""):
        with pytest.raises(UsageError, match="is no size of a memory") as error:
            parse_memory(text)
        assert "80GiB" in error.value.remedy


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--gpu-memory", "lots"], '--gpu-memory: "lots" is no size of a memory'),
        (["--offload", "disk"], "--offload disk does not exist"),
        (["--stage", "2"], "adapters are too small to shard, so there is no stage 2\n"),
        (["--stage", "0", "--offload", "parameters"], "there is no stage 0 with offload parameters\n"),
        (["adapter.targets=[nope]"], "has no linear layer called nope"),
        (["optim.lr=0"], "optim.lr=0 must be above 0."),
    ],
)
def test_what_cannot_be_planned_is_said(
    model: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main([*words(model, "adapter=lora"), *more]) in (2, 4)
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_a_folder_without_a_config_and_no_words_at_all_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path)) == 4
    assert f"{tmp_path}: no config.json there" in capsys.readouterr().err
    assert main(["plan"]) == 2
    assert "nothing says what to plan" in capsys.readouterr().err


def test_an_adapters_bytes_are_those_of_a_row_of_the_packed_engines_tables(model: Path) -> None:
    config = compose(
        ["model=folder", f"model.path={model}", "adapter=lora", "adapter.rank=5", "adapter.targets=[q_proj]"]
    )
    training = training_of(config)
    shapes = [(path, weight_of(layer).shape) for path, layer in linear_layers(skeleton(model))]
    sites = [Site(path, inputs, outputs) for path, (outputs, inputs) in shapes]
    bank = Bank(sites, 8, master=torch.float32, compute=torch.bfloat16, device=torch.device("meta"))
    assert training.adapter_state == bank.row_bytes


def test_the_rows_of_a_pass_are_divided_among_gpus() -> None:
    config = compose(["experiment=lora_sft", "optim.batch_size=32", "optim.micro_batch=16"])
    assert wishes_of(config, 1).rows == 16
    assert wishes_of(config, 6).rows == 3
    by_tokens = compose(["experiment=lora_sft", "optim.micro_tokens=4096", "data.max_length=512"])
    assert wishes_of(by_tokens, 1).rows == 8


def test_a_trial_of_a_pack_is_whole_on_one_gpu_of_those_that_share_its_base(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("adapter=lora", "data.max_length=512", "--gpu-memory", "80GiB", "--gpus", "4")
    packed = planned(capsys, model, "engine=packed_zero3", "cluster.ranks=4", *more)
    divided = planned(capsys, model, "engine=zero3", "cluster.ranks=4", *more)
    assert (packed["chosen"]["stage"], divided["chosen"]["stage"]) == (3, 3)
    assert packed["chosen"]["rows"] == 4 * divided["chosen"]["rows"]
    assert packed["step"]["micro_batch"] == divided["step"]["micro_batch"]
    assert (packed["trials_beside"], packed["settings"]) == (None, [])


def test_what_earlier_runs_of_the_home_measured_calibrates_the_plan(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_kind = {"engine": "packed", "device": "cuda", "precision": "bf16", "predicted": 1000}
    for name, record in {
        "one": {**of_kind, "measured": 1100},
        "sweep/two": {**of_kind, "measured": 1300},
        "sweep/three": {**of_kind, "measured": 1200},
        "not-measured": of_kind,
        "on-a-cpu": {**of_kind, "device": "cpu", "measured": 9000},
        "damaged": "{",
    }.items():
        (tmp_path / name).mkdir(parents=True)
        text = record if isinstance(record, str) else json.dumps(record)
        (tmp_path / name / "memory.json").write_text(text)
    asked = ("adapter=lora", "--gpu-memory", "24GiB")
    plain = planned(capsys, model, *asked, f"home={tmp_path / 'none'}")
    found = planned(capsys, model, *asked, f"home={tmp_path}")
    assert plain["calibration"] == {"runs": 0, "factor": 1.0}
    assert found["calibration"] == {"runs": 3, "factor": 1.2}
    for before, after in zip(plain["candidates"], found["candidates"], strict=True):
        assert after["bytes"]["on_gpu"] == pytest.approx(1.2 * before["bytes"]["on_gpu"], abs=9)
    assert main([*words(model, *asked), f"home={tmp_path}"]) == 0
    assert "calibrated by 3 runs: x1.20" in capsys.readouterr().out
    for more in (("adapter=none",), ("adapter=lora", "--gpus", "2")):  # other kinds
        found = planned(capsys, model, *more, "--gpu-memory", "24GiB", f"home={tmp_path}")
        assert found["calibration"]["runs"] == 0
