"""A tokenizer comes with the chat template it is given, and saved folders say which one they were made with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcluster.errors import ModelError
from ftcluster.models.base import load_base
from ftcluster.models.tokenizer import load_tokenizer, saved_template

TEMPLATE = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
CHAT = [{"role": "user", "content": "The quick"}]


def test_a_given_template_takes_the_place_of_the_models_own(tiny_qwen2: Path) -> None:
    for tokenizer in (
        load_tokenizer(tiny_qwen2, template=TEMPLATE),
        load_base(tiny_qwen2, template=TEMPLATE).tokenizer,
    ):
        assert tokenizer.apply_chat_template(CHAT, tokenize=False) == "The quick<|im_end|>"
    assert "<|im_start|>" in load_tokenizer(tiny_qwen2).apply_chat_template(CHAT, tokenize=False)


def test_what_is_saved_with_it_is_found_again(tiny_qwen2: Path, tmp_path: Path) -> None:
    load_tokenizer(tiny_qwen2, template=TEMPLATE).save_pretrained(tmp_path)
    assert saved_template(tmp_path) == TEMPLATE
    assert load_tokenizer(tmp_path).chat_template == TEMPLATE


def test_older_folders_keep_the_template_in_the_tokenizers_config(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    assert saved_template(tmp_path) == TEMPLATE


@pytest.mark.parametrize("config", [None, {}, {"chat_template": [{"name": "default", "template": "x"}]}])
def test_a_folder_without_one_template_of_its_own_has_none(tmp_path: Path, config: object) -> None:
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert saved_template(tmp_path) is None


@pytest.mark.parametrize("content", ["{half", "[]"])
def test_a_damaged_config_is_an_error_that_names_the_folder(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ModelError, match="the chat template saved with it cannot be read") as caught:
        saved_template(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert caught.value.remedy == "save it again"
