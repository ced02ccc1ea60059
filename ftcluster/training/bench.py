"""What a process keeps warm between trials: engines with their loaded base, and prepared data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ftcluster.config.compose import resolve_home
from ftcluster.config.schema import RunConfig
from ftcluster.data.folder import PreparedData, open_prepared
from ftcluster.data.prepare import DataSettings, prepare
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.precision import choose_device, choose_precision
from ftcluster.models.base import Base, check_folder, check_vocabulary, load_base, load_tokenizer, skeleton
from ftcluster.models.targets import resolve_targets

_TOKENIZER_FILES = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template")


class Bench:
    """Engines by the base they hold; a trial that needs the same base finds it loaded."""

    def __init__(self) -> None:
        self._engines: dict[tuple[object, ...], LocalEngine] = {}
        self._next_slot = 0

    def engine(self, config: RunConfig) -> LocalEngine:
        """The engine for a config's base, device and precision, made on first use."""
        device = choose_device(config.engine.device)
        precision = choose_precision(config.engine.precision, device, full=config.adapter.kind == "none")
        key = (config.model.path, config.model.revision, str(device), precision)

        def load() -> Base:
            return load_base(
                Path(config.model.path),
                device=device,
                dtype=precision.weights,
                revision=config.model.revision,
                trust_remote_code=config.model.trust_remote_code,
            )

        if key not in self._engines:
            # One base at a time: a host that moves on to another base must not hold both.
            self._engines = {key: LocalEngine(load, precision)}
            if device.type == "cuda":
                torch.cuda.empty_cache()
                # Several CUDA kernels add in any order unless told otherwise; resume promises the same bits.
                torch.use_deterministic_algorithms(True, warn_only=True)
        return self._engines[key]

    def slot(self) -> int:
        """A slot number no trial of this process has had."""
        self._next_slot += 1
        return self._next_slot


def prepare_data(config: RunConfig, progress: Callable[[int, int], None] | None = None) -> PreparedData:
    """Read, check, split and tokenise a config's data, or find it done already.

    Raises:
        DataError: files missing, or too many rows that cannot be used.
        ModelError: the model or its tokenizer cannot be used, or lacks an adapter target.
    """
    folder = Path(config.model.path)
    tokenizer = _checked_tokenizer(config, folder)
    data = config.data
    settings = DataSettings(
        train=tuple(data.train),
        validation=tuple(data.validation),
        test=tuple(data.test),
        format=data.format,
        columns=dict(data.columns),
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        max_length=data.max_length,
        max_bad_rows=data.max_bad_rows,
        limit=data.limit,
        objective=config.objective.name,
    )
    return prepare(settings, tokenizer, tokenizer_id(folder), resolve_home(config) / "prepared", progress)


def _checked_tokenizer(config: RunConfig, folder: Path) -> Any:
    """The tokenizer, once everything is refused that can be without loading the weights."""
    check_folder(folder)
    tokenizer = load_tokenizer(folder, trust_remote_code=config.model.trust_remote_code)
    model = skeleton(folder, trust_remote_code=config.model.trust_remote_code)
    check_vocabulary(model.get_input_embeddings().weight.shape[0], tokenizer, folder)
    if config.adapter.kind == "lora":
        resolve_targets(model, config.adapter.targets)
    return tokenizer


def tokenizer_id(folder: Path) -> str:
    """Identity of everything that decides how text becomes tokens: tokenizer files and chat template."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.startswith(_TOKENIZER_FILES):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=4)
def opened(folder: str) -> PreparedData:
    """Prepared data, opened once per process."""
    return open_prepared(Path(folder))


@lru_cache(maxsize=2)
def tokenizer_of(folder: str, trust_remote_code: bool) -> Any:
    """A model's tokenizer, loaded once per process."""
    return load_tokenizer(Path(folder), trust_remote_code=trust_remote_code)
