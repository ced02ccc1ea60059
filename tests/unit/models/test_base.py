"""A base model is loaded whole or refused with what is wrong in its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_samples import save_sample
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ftcluster.errors import ModelError
from ftcluster.models.base import (
    check_folder,
    check_vocabulary,
    fingerprint,
    has_dropout,
    load_base,
    save_model,
    skeleton,
)
from ftcluster.models.tokenizer import load_tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_qwen2: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_qwen2, tmp_path / "model"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("layer_types", None)
    path.write_text(json.dumps({**config, **changes}))


def test_a_base_is_frozen_in_evaluation_mode_and_of_the_wanted_dtype(tiny_qwen2: Path) -> None:
    base = load_base(tiny_qwen2, dtype=torch.float64)
    assert not base.model.training
    assert {p.dtype for p in base.model.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.revision == fingerprint(tiny_qwen2)
    assert load_base(tiny_qwen2, revision="main").revision == "main"


@pytest.mark.parametrize(
    ("architecture", "setting"),
    [("gpt2", "resid_pdrop"), ("gpt_neox", "hidden_dropout"), ("qwen2", "attention_dropout")],
)
def test_dropout_of_a_models_own_is_noticed_and_that_of_heads_it_lacks_is_not(
    architecture: str, setting: str, tmp_path: Path
) -> None:
    folder = save_sample(architecture, tmp_path)
    assert not has_dropout(skeleton(folder))  # GPT-2 and GPT-NeoX come with 0.1 for the heads of classifiers
    edit_config(folder, **{setting: 0.2})
    skeleton.cache_clear()
    assert has_dropout(skeleton(folder))


def test_loading_and_saving_draw_no_progress_bars_and_leave_them_on(
    tiny_qwen2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    save_model(load_base(tiny_qwen2), tmp_path)
    assert capfd.readouterr().err == ""
    assert logging.is_progress_bar_enabled()


def test_a_saved_model_is_an_ordinary_folder_with_the_same_logits(tiny_qwen2: Path, tmp_path: Path) -> None:
    base = load_base(tiny_qwen2)
    save_model(base, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(plain(tokens).logits, base.model(tokens).logits)
    original = json.loads((tiny_qwen2 / "config.json").read_text())
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["use_cache"] == original["use_cache"], "what training needs must not leak into the result"


def cut_weights(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:5000])


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: shutil.rmtree(folder), "no such model folder\n  -> set model.path"),
    (lambda folder: (folder / "config.json").unlink(), r"config.json is missing\n  -> model.path must name"),
    (lambda folder: (folder / "config.json").write_text("{half"), "config.json cannot be read as a JSON object"),
    (lambda folder: (folder / "config.json").write_text("[]"), "config.json cannot be read as a JSON object"),
    (lambda folder: (folder / WEIGHTS).unlink(), r"no \*.safetensors weights\n  -> convert the weights"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b""), r"header too small\n  -> check that the folder is a complete"),
    (cut_weights, r"incomplete metadata, file not fully covered\n  -> check that the folder is a complete"),
    (drop_a_tensor, r"the weights lack 1 tensors, such as model.layers.1.mlp.up_proj.weight"),
    (lambda folder: edit_config(folder, num_hidden_layers=3), "the weights lack 12 tensors, such as model.layers.2"),
    (lambda folder: edit_config(folder, hidden_size=64), "complete causal language model"),
    (lambda folder: edit_config(folder, model_type="nonesuch"), "nonesuch"),
    (lambda folder: (folder / "tokenizer.json").write_text("{half"), "no usable tokenizer .*\n  -> save the tokenizer"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "no usable tokenizer"),
]


@pytest.mark.parametrize(("harm", "message"), DAMAGE)
def test_a_folder_that_is_no_whole_model_is_refused_by_what_is_wrong(
    folder: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_base(folder)
    assert str(folder) in str(caught.value)


def test_a_folder_without_tokenizer_files_is_refused_though_transformers_makes_up_an_empty_one(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no usable tokenizer \(its files are missing\)"):
        load_tokenizer(folder)


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused_with_both_sizes(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    check_vocabulary(len(tokenizer), tokenizer, folder)
    tokenizer.add_tokens(["<|one|>", "<|two|>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="the tokenizer has ids up to 321, the model's embedding only 320 rows"):
        load_base(folder)


def test_a_model_with_spare_rows_for_a_smaller_tokenizer_is_fine(tiny_qwen2: Path, folder: Path) -> None:
    check_vocabulary(10_000, load_tokenizer(tiny_qwen2), folder)


def test_weights_in_pickles_are_not_read(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*.safetensors weights"):
        load_base(folder)


def test_a_skeleton_has_the_shapes_of_the_model_without_its_weights(tiny_qwen2: Path) -> None:
    bones, whole = skeleton(tiny_qwen2), load_base(tiny_qwen2).model
    assert {p.device.type for p in bones.parameters()} == {"meta"}
    assert {n: p.shape for n, p in bones.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}


def test_a_skeleton_of_something_else_is_refused(folder: Path) -> None:
    edit_config(folder, model_type="nonesuch")
    with pytest.raises(ModelError, match="nonesuch"):
        skeleton(folder)


def test_a_fingerprint_tells_weights_and_configs_apart_but_not_places_or_layout(tiny_qwen2: Path, folder: Path) -> None:
    first = fingerprint(tiny_qwen2)
    assert fingerprint(folder) == first
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()), indent=8))
    assert fingerprint(folder) == first
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    changed = fingerprint(folder)
    assert changed != first
    edit_config(folder, rms_norm_eps=1e-3)
    assert fingerprint(folder) not in (first, changed)


def test_a_fingerprint_looks_at_both_ends_and_in_between_of_large_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    size = 40 << 20
    found = set()
    for at in (None, 0, 20 << 20, size - 1):
        with (tmp_path / WEIGHTS).open("wb") as file:
            file.truncate(size)
            if at is not None:
                file.seek(at)
                file.write(b"x")
        found.add(fingerprint(tmp_path))
    assert len(found) == 4


def test_a_checked_folder_is_a_folder_with_config_and_weights(tiny_qwen2: Path) -> None:
    check_folder(tiny_qwen2)
