"""A tokenizer that travels: what workers need of a Hugging Face tokenizer, without the library.

Importing transformers, and torch with it, takes seconds in every process. Most tokenizers are one Rust object, a few
special tokens and a template; those arrive in a worker as text, and the same Rust code makes the same tokens of it.
Owns the copy and the proof that it is one, not what is done with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

_PROBE = "A b1, été 你好\n\n  x\t<|im_start|>"


@dataclass(frozen=True)
class Portable:
    """Picklable; calling it makes the tokenizer."""

    backend: str  # JSON
    eos_token: str | None
    eos_token_id: int | None
    special_tokens_map: Mapping[str, Any]
    chat_template: Any
    plain_template: str
    tools_template: str

    def __call__(self) -> LightTokenizer:
        return LightTokenizer(self)


class LightTokenizer:
    """As the Hugging Face tokenizer it was copied from, as far as data is prepared."""

    def __init__(self, copied: Portable) -> None:
        self._copied = copied
        self.backend_tokenizer: Any = Tokenizer.from_str(copied.backend)
        self.chat_template = copied.chat_template
        self.eos_token, self.eos_token_id = copied.eos_token, copied.eos_token_id

    @property
    def special_tokens_map(self) -> Mapping[str, Any]:
        return self._copied.special_tokens_map

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        decoder: Mapping[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        return decoder

    def get_chat_template(self, chat_template: str | None = None, tools: list[dict[str, Any]] | None = None) -> str:
        return chat_template or (self._copied.tools_template if tools else self._copied.plain_template)

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def __call__(self, text: list[str], **options: Any) -> Mapping[str, list[list[int]]]:
        backend = self.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = options.get("split_special_tokens", False)
        encoded = backend.encode_batch(text, add_special_tokens=options.get("add_special_tokens", True))
        return {"input_ids": [encoding.ids for encoding in encoded]}

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        return str(self.backend_tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))


def portable(tokenizer: Any) -> Portable | None:
    """A copy to send to workers; None for a tokenizer that is more than its Rust part."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return None
    has_template = bool(tokenizer.chat_template)
    copy = Portable(
        backend=backend.to_str(),
        eos_token=tokenizer.eos_token,
        eos_token_id=tokenizer.eos_token_id,
        special_tokens_map=dict(tokenizer.special_tokens_map),
        chat_template=tokenizer.chat_template,
        plain_template=tokenizer.get_chat_template() if has_template else "",
        tools_template=tokenizer.get_chat_template(tools=[{}]) if has_template else "",
    )
    return copy if _agree(tokenizer, copy()) else None


def _agree(tokenizer: Any, light: LightTokenizer) -> bool:
    texts = ["", _PROBE, f"{_PROBE}{tokenizer.eos_token}{_PROBE}"]
    return len(tokenizer) == len(light) and all(
        tokenizer(texts, add_special_tokens=add, split_special_tokens=split)["input_ids"]
        == light(texts, add_special_tokens=add, split_special_tokens=split)["input_ids"]
        for add in (False, True)
        for split in (False, True)
    )
