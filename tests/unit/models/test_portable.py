"""A tokenizer's copy makes the same tokens as the original, in a process without transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_samples import tokenizer

from ftcluster.data.rows.example import Example, Message
from ftcluster.data.text.template import Tokeniser
from ftcluster.models.portable import portable


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_the_copy_makes_the_same_tokens(texts: list[str], add: bool, split: bool) -> None:
    original, copy = tokenizer(), portable(tokenizer())
    assert copy is not None
    texts = [*texts, f"{texts[0]}<|im_end|>{texts[-1]}"]
    options = {"add_special_tokens": add, "split_special_tokens": split}
    assert copy()(texts, **options)["input_ids"] == original(texts, **options)["input_ids"]


def test_conversations_become_the_same_documents() -> None:
    copy = portable(tokenizer())
    assert copy is not None
    turns = (Message("system", "Be brief."), Message("user", "Hi <|im_end|> there"), Message("assistant", "好 \n!"))
    examples = [Example("f", 1, turns), Example("f", 2, (*turns, *turns[1:]))]
    for one, other in zip(Tokeniser(tokenizer())(examples), Tokeniser(copy())(examples), strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()  # type: ignore[union-attr]
        assert one.trained.tolist() == other.trained.tolist()  # type: ignore[union-attr]
    assert Tokeniser(copy()).stop_ids() == Tokeniser(tokenizer()).stop_ids()


def test_it_says_what_the_original_says_about_itself() -> None:
    original, copy = tokenizer(), portable(tokenizer())
    assert copy is not None
    light = copy()
    assert (len(light), light.eos_token, light.eos_token_id) == (
        len(original),
        original.eos_token,
        original.eos_token_id,
    )
    assert light.chat_template == original.chat_template == light.get_chat_template()
    assert dict(light.special_tokens_map) == dict(original.special_tokens_map)
    assert {k: str(v) for k, v in light.added_tokens_decoder.items()} == {
        k: str(v) for k, v in original.added_tokens_decoder.items()
    }
    assert light.decode([5, 6, 7]) == original.decode([5, 6, 7])


class _Shouting:
    """A tokenizer that does more than its Rust part."""

    def __init__(self) -> None:
        self._inner = tokenizer()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)

    def __call__(self, texts: list[str], **options: Any) -> Any:
        return self._inner([text.upper() for text in texts], **options)


def test_a_tokenizer_that_is_more_than_its_rust_part_is_not_copied() -> None:
    assert portable(_Shouting()) is None
    assert portable(object()) is None


@pytest.mark.slow
def test_a_process_that_uses_the_copy_imports_neither_transformers_nor_torch(tmp_path: Path) -> None:
    import multiprocessing.reduction as reduction

    file = tmp_path / "copy"
    file.write_bytes(bytes(reduction.ForkingPickler.dumps(portable(tokenizer()))))
    program = (
        "import json, pickle, sys\n"
        "from ftcluster.data.prepared.chunks import make_stage\n"
        "from ftcluster.data.prepared.settings import DataSettings\n"
        "make_stage(DataSettings(), pickle.load(open(sys.argv[1], 'rb')))\n"
        "print(json.dumps([name for name in ('torch', 'transformers', 'pandas', 'hydra') if name in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
