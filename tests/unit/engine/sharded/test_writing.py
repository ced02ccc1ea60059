"""Files written tensor by tensor are those that safetensors and transformers write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ftcluster.engine.sharded.loading import tensor_files
from ftcluster.engine.sharded.tensorfile import TensorFile
from ftcluster.engine.sharded.writing import Writer
from ftcluster.errors import ModelError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_file_is_read_back_by_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a.b": torch.randn(3, 5), "scalar": torch.tensor(2.0), "none": torch.zeros(0, 4)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with TensorFile(tmp_path / "x.safetensors", shapes, dtype) as file:
        for tensor in tensors.values():
            file.write(tensor)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.to(dtype))


@pytest.mark.parametrize("file_bytes", [1 << 30, 20_000])
def test_a_model_folder_in_one_file_or_several_is_loaded_by_transformers(
    tiny_qwen2: Path, tmp_path: Path, file_bytes: int
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen2, dtype=torch.float32)
    tensors = dict(model.named_parameters())
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    writer = Writer(writes=True, file_bytes=file_bytes)
    writer.model(model, tmp_path, shapes, tensors.values(), torch.float32)
    writer.finish()
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (file_bytes < 1 << 30)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for name, tensor in again.named_parameters():
        assert torch.equal(tensor, tensors[name]), name
    assert tensor_files(tmp_path).keys() == tensors.keys()
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_a_rank_that_cannot_write_still_takes_part_until_the_last_tensor_of_the_last_file(tmp_path: Path) -> None:
    taken = []

    def gathering() -> Iterator[torch.Tensor]:
        for number in range(3):
            taken.append(number)
            yield torch.zeros(2)

    writer, shapes = Writer(writes=True), {str(number): (2,) for number in range(3)}
    writer.tensors(tmp_path / "no" / "x", shapes, gathering(), torch.float32)
    writer.tensors(tmp_path / "y", shapes, gathering(), torch.float32)
    with pytest.raises(FileNotFoundError):
        writer.finish()
    assert taken == [0, 1, 2, 0, 1, 2]
    assert not (tmp_path / "y").exists()


def test_a_truncated_file_of_weights_is_refused_before_anything_is_read(tiny_qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((tiny_qwen2 / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match="its weights cannot be read"):
        tensor_files(tmp_path)
