"""A tiny model is an ordinary Hugging Face folder that any transformers program can use."""

from __future__ import annotations

import resource
import unicodedata
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ftcluster.errors import ModelError, StoreError
from ftcluster.models.tiny import create_tiny_model, train_tokenizer

TEXTS = ["Book a table for 12 at Sakura", "巴黎周五的天气怎么样", '{"tool":"get_weather","city":"Paris"}'] * 10
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "巴黎?"},
    {"role": "assistant", "content": "Paris."},
]


def _create(folder: Path, **options: Any) -> Path:
    sizes: dict[str, Any] = {"hidden_size": 32, "vocabulary": 330, "max_length": 64}
    return create_tiny_model(folder, TEXTS, **(sizes | options))


def _digest(folder: Path) -> str:
    return sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _create(tmp_path_factory.mktemp("tiny") / architecture, architecture=architecture)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_transformers_loads_the_folder_as_the_architecture_it_names(folder: Path, architecture: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__.lower() == f"{architecture}forcausallm"
    assert model.config.architectures == [type(model).__name__]
    logits = model(torch.tensor([[3, 4, 5]])).logits
    assert logits.shape == (1, 3, model.config.vocab_size)


def test_model_and_tokenizer_agree_on_the_vocabulary_and_on_how_a_turn_ends(folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    generation = GenerationConfig.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 64
    assert tokenizer.decode([generation.eos_token_id]) == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode([generation.pad_token_id]) == tokenizer.pad_token == "<|endoftext|>"
    assert not generation.do_sample


def test_input_and_output_embeddings_are_one_matrix_stored_once(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    assert "model.embed_tokens.weight" in weights
    assert "lm_head.weight" not in weights
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_unchanged_in_composed_form(tokenizer: Any, text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == composed


def test_a_loaded_tokenizer_cuts_text_as_the_trained_one_does(tokenizer: Any) -> None:
    trained = train_tokenizer(TEXTS, vocabulary=330, max_length=64)
    for text in [*TEXTS[:3], "It's 2024, «già»:\n\n  x\t巴黎 Paris", TALK[1]["content"]]:
        assert tokenizer(text)["input_ids"] == trained(text)["input_ids"]


def test_a_chinese_name_has_the_same_tokens_wherever_it_stands(tokenizer: Any) -> None:
    name = tokenizer("巴黎")["input_ids"]
    for before, after in (("在", "的"), ('"', '"'), ("Paris", "12")):
        ids = tokenizer(before + "巴黎" + after)["input_ids"]
        start = len(tokenizer(before)["input_ids"])
        assert ids[start : start + len(name)] == name


def test_the_chat_template_writes_turns_and_opens_the_next_one(tokenizer: Any) -> None:
    whole = tokenizer.apply_chat_template(TALK, tokenize=False)
    opened = tokenizer.apply_chat_template(TALK[:2], tokenize=False, add_generation_prompt=True)
    assert opened == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n巴黎?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert whole == opened + "Paris.<|im_end|>\n"
    assert tokenizer.decode(tokenizer.apply_chat_template(TALK)["input_ids"]) == whole


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, again, other = (_create(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert _digest(first) == _digest(again) != _digest(other)
    assert (first / "tokenizer.json").read_bytes() == (again / "tokenizer.json").read_bytes()


def test_the_global_random_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _create(tmp_path / "m")
    assert torch.equal(torch.rand(3), expected)


def test_a_small_text_gives_a_smaller_vocabulary_than_asked_for(tmp_path: Path) -> None:
    folder = _create(tmp_path / "m", vocabulary=5000)
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == len(AutoTokenizer.from_pretrained(folder))


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'"gpt9" is not an architecture.*\n.*llama, qwen2'):
        _create(tmp_path / "m", architecture="gpt9")


@pytest.mark.parametrize("sizes", [{"heads": 3, "kv_heads": 1}, {"heads": 4, "kv_heads": 3}])
def test_heads_that_do_not_divide_the_hidden_size_are_refused(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(ModelError, match=r"do not divide a hidden size of 32\n.*multiple of 2 \* heads"):
        _create(tmp_path / "m", **sizes)


def test_a_vocabulary_without_room_for_all_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"vocabulary of 258 has no room.*\n.*at least 259"):
        _create(tmp_path / "m", vocabulary=258)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(StoreError, match=r"not empty\n.*name another folder"):
        _create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 20 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_a_disk_that_fills_up_while_writing_leaves_no_half_made_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be written: .*\n.*free space"):
        _create(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
