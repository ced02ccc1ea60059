"""The gate reads an adapter back from disk and lets only a sound one through."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftcluster.errors import BadAdapter
from ftcluster.models.integrity import FILE, Integrity, check_adapter, read_integrity, write_integrity

A, B = "base_model.model.layers.0.q_proj.lora_A.weight", "base_model.model.layers.0.q_proj.lora_B.weight"
SHAPES = {A: (2, 8), B: (8, 2)}
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "target_modules": ["q_proj"]}))
    save_file({A: torch.ones(SHAPES[A]), B: torch.ones(SHAPES[B])}, tmp_path / "adapter_model.safetensors")
    return tmp_path


def change(adapter: Path, edit: Callable[[Tensors], object]) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")


def test_a_sound_adapter_passes_with_its_figures(adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    assert check_adapter(adapter, shapes=SHAPES, base_revision="abc") == Integrity(
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        base_revision="abc",
        tensors=2,
        parameters=32,
        bytes=weights.stat().st_size,
    )


TENSOR_FAULTS: list[tuple[Callable[[Tensors], object], str]] = [
    (lambda t: t.clear(), "the adapter is empty"),
    (lambda t: t.update({B: torch.zeros(8, 2)}), "lora_B.weight has not moved from zero"),
    (lambda t: t.update({B: torch.full((8, 2), float("nan"))}), "lora_B.weight is not finite"),
    (lambda t: t[A][0, 0].fill_(float("inf")), "lora_A.weight is not finite"),
    (lambda t: t.pop(A), "lora_A.weight is missing"),
    (lambda t: t.update(extra=torch.ones(1)), "extra is unexpected"),
    (lambda t: t.update({A: torch.ones(2, 9)}), r"lora_A.weight has shape \(2, 9\), expected \(2, 8\)"),
    (lambda t: t.update({A: torch.ones(0, 8)}), "lora_A.weight has no elements"),
]


@pytest.mark.parametrize(("edit", "message"), TENSOR_FAULTS)
def test_unsound_tensors_are_refused_by_name(adapter: Path, edit: Callable[[Tensors], object], message: str) -> None:
    change(adapter, edit)
    with pytest.raises(BadAdapter, match=message) as caught:
        check_adapter(adapter, shapes=SHAPES)
    assert str(adapter) in str(caught.value)


FILE_FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors cannot be read"),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 40), "adapter_model.safetensors cannot be read"),
    (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json cannot be read"),
    (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
    (lambda f: (f / "adapter_config.json").write_text("[]"), "adapter_config.json names no rank or no target modules"),
    (lambda f: (f / "adapter_config.json").write_text('{"r": 2}'), "names no rank or no target modules"),
]


@pytest.mark.parametrize(("harm", "message"), FILE_FAULTS)
def test_files_that_cannot_be_read_back_are_refused(
    adapter: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(adapter)
    with pytest.raises(BadAdapter, match=message):
        check_adapter(adapter)


def test_everything_wrong_is_told_at_once(adapter: Path) -> None:
    (adapter / "adapter_config.json").unlink()
    change(adapter, lambda tensors: tensors[B].zero_())
    with pytest.raises(BadAdapter, match=r"adapter_config.json cannot be read.*; .*has not moved from zero"):
        check_adapter(adapter)


def test_stored_findings_come_back_while_the_file_is_unchanged(adapter: Path) -> None:
    found = check_adapter(adapter, base_revision="abc")
    write_integrity(adapter, found)
    assert read_integrity(adapter) == found


def test_an_adapter_changed_after_saving_is_refused_with_both_hashes(adapter: Path) -> None:
    found = check_adapter(adapter)
    write_integrity(adapter, found)
    change(adapter, lambda tensors: tensors[A].add_(1))
    with pytest.raises(BadAdapter, match=rf"(?s)recorded was {found.sha256[:12]}.*changed after it was saved"):
        read_integrity(adapter)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"sha256": "a"}', '{"unknown": 1}'])
def test_an_adapter_without_readable_findings_is_refused(adapter: Path, text: str | None) -> None:
    if text is not None:
        (adapter / FILE).write_text(text)
    with pytest.raises(BadAdapter, match=r"no integrity record.*\n  -> save the adapter again"):
        read_integrity(adapter)
