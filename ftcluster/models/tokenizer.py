"""A model folder's tokenizer and the chat template saved with it.

Imports nothing that knows models, since every worker that prepares data has to wait for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ftcluster.errors import ModelError


def load_tokenizer(folder: Path, *, template: str | None = None, trust_remote_code: bool = False) -> Any:
    """The folder's tokenizer; ``template``, a Jinja text, takes the place of its chat template.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        if not tokenizer("a1").input_ids:  # without files transformers makes one that knows no text
            raise ValueError("its files are missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "save the tokenizer into the model folder: tokenizer.save_pretrained(folder)"
        raise ModelError(
            f"no usable tokenizer ({str(error).splitlines()[0]})", where=str(folder), remedy=remedy
        ) from error
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def saved_template(folder: Path) -> str | None:
    """The chat template saved with a model or an adapter; None where there is none of its own, or several.

    Raises:
        ModelError: it cannot be read.
    """
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    try:
        if file.is_file():
            return file.read_text(encoding="utf-8")
        found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"the chat template saved with it cannot be read: {error}", where=str(folder), remedy="save it again"
        ) from error
    return found if isinstance(found, str) else None
