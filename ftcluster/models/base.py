"""A base model: a Hugging Face folder loaded once per host, with its tokenizer and fingerprint.

Owns loading and the checks that a folder is usable. Does not own adapters (``adapters``) nor the
computation of a loss (``engine``).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from ftcluster.errors import ModelError
from ftcluster.models.attention import DECODERS
from ftcluster.models.tokenizer import load_tokenizer

_SAMPLE = 1 << 20
_SAMPLES = 16
_COMPLETE = "check that the folder is a complete causal language model in safetensors format"


@dataclass
class Base:
    """A model ready to be trained on, frozen until somebody unfreezes it."""

    folder: Path
    revision: str
    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerFast
    device: torch.device
    dtype: torch.dtype


def load_base(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str = "",
    template: str | None = None,
    trust_remote_code: bool = False,
) -> Base:
    """Load weights (safetensors only) and tokenizer; ``template`` takes the place of its chat template.

    Raises:
        ModelError: the folder is missing or incomplete, or model and tokenizer do not belong together.
    """
    check_folder(folder)
    tokenizer = load_tokenizer(folder, template=template, trust_remote_code=trust_remote_code)
    with without_bars(), _reading(folder):
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    if missing := sorted(found["missing_keys"]):  # transformers draws random weights instead
        message = f"the weights lack {len(missing)} tensors, such as {missing[0]}"
        raise ModelError(message, where=str(folder), remedy=_COMPLETE)
    check_vocabulary(model.get_input_embeddings().weight.shape[0], tokenizer, folder)
    model.requires_grad_(False).eval()
    return Base(folder, revision or fingerprint(folder), model.to(device), tokenizer, torch.device(device), dtype)


def save_model(base: Base, folder: Path) -> None:
    """Write the model as a Hugging Face folder of safetensors, without its tokenizer."""
    quieten_deepspeed()  # transformers imports it here, where it is installed
    with without_bars():
        base.model.save_pretrained(folder)


def quieten_deepspeed() -> None:
    """Let DeepSpeed tell of errors only; as it is imported it says what it found and chose, in every process."""
    logging.getLogger("DeepSpeed").addFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


@contextmanager
def without_bars() -> Iterator[None]:
    """transformers draws a progress bar for every folder it reads or writes; here they would fill logs."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """What transformers raises for a folder it cannot use, as our error."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        text, remedy = str(error).splitlines()[0], _COMPLETE
        if "attention implementation" in text:
            text, remedy = f"{text.split()[0]} brings an attention of its own, which cannot be replaced", DECODERS
        raise ModelError(text, where=str(folder), remedy=remedy) from error


@lru_cache(maxsize=4)
def skeleton(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The folder's model without weights, made in milliseconds: enough to know its layers and their sizes.

    Raises:
        ModelError: transformers knows no such causal language model.
    """
    with _reading(folder), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def has_dropout(model: Any) -> bool:
    """Whether the model drops activations of its own while it is trained."""
    settings = {name: value for name, value in model.config.get_text_config().to_dict().items() if "drop" in name}
    heads = ("classifier", "summary")  # which a language model has not, though its config tells of their dropout
    return any(isinstance(value, float) and value > 0 for name, value in settings.items() if not name.startswith(heads))


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no complete Hugging Face model, without loading anything.

    Raises:
        ModelError: it does not exist, or has no readable config.json or no safetensors weights.
    """
    if not folder.is_dir():
        raise ModelError(
            "no such model folder", where=str(folder), remedy="set model.path to a Hugging Face model folder"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            "config.json is missing", where=str(folder), remedy="model.path must name the model's own folder"
        )
    try:
        readable = isinstance(json.loads((folder / "config.json").read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        readable = False
    if not readable:
        raise ModelError("config.json cannot be read as a JSON object", where=str(folder), remedy=_COMPLETE)
    if not any(folder.glob("*.safetensors")):
        remedy = "convert the weights: model.save_pretrained(folder) with transformers writes safetensors"
        raise ModelError("no *.safetensors weights", where=str(folder), remedy=remedy)


def check_vocabulary(rows: int, tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer that can produce ids the model's embedding does not have.

    Raises:
        ModelError: naming both sizes.
    """
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ModelError(
            f"the tokenizer has ids up to {largest}, the model's embedding only {rows} rows",
            where=str(folder),
            remedy="use the tokenizer the model was trained with",
        )


def fingerprint(folder: Path) -> str:
    """Identity of a folder's weights: sha256 over config and 16 evenly spaced MiB of each weights file."""
    digest = hashlib.sha256(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for offset in sorted(
                {min(i * (size // _SAMPLES), size) for i in range(_SAMPLES)} | {max(0, size - _SAMPLE)}
            ):
                file.seek(offset)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
