"""What is evaluated: a base model, and the results trained from it, opened one at a time.

Owns finding and opening a finished run's result; the base is loaded once, on first use, however many adapters
are hung on it. Every subject of one base is computed with the same arithmetic, so that a difference between
two of them is one of weights. Does not measure anything (``record`` does).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ftcluster.config.schema import EngineConfig, ModelConfig
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.ports import BASE_SLOT, Engine
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.precision import choose_device, choose_precision
from ftcluster.errors import StoreError
from ftcluster.models.base import check_folder, fingerprint, load_base
from ftcluster.models.integrity import read_integrity

_SLOT = 0


@dataclass(frozen=True)
class Subject:
    """A model to be asked: an engine, the slot it sits in, and its tokenizer."""

    engine: Engine
    slot: int
    tokenizer: Any


class SharedBase:
    """A base model and whatever was trained from it, all asked in the chat template ``template`` (None: its own)."""

    def __init__(self, model: ModelConfig, engine: EngineConfig, template: str | None = None) -> None:
        self.folder = Path(model.path)
        self._model = model
        self._template = template
        self._device = choose_device(engine.device)
        self._precision = choose_precision(engine.precision, self._device, full=False)

    @cached_property
    def revision(self) -> str:
        """Identity of the base's weights, without loading them.

        Raises:
            ModelError: the folder is no model any more.
        """
        check_folder(self.folder)
        return self._model.revision or fingerprint(self.folder)

    @property
    def arithmetic(self) -> str:
        """Where and in which precision subjects are computed, e.g. ``cpu torch.float32``."""
        return f"{self._device.type} {self._precision.autocast or self._precision.weights}"

    @cached_property
    def _engine(self) -> LocalEngine:
        return self._open(self.folder, self.revision)

    def _open(self, folder: Path, revision: str) -> LocalEngine:
        return LocalEngine(
            lambda: load_base(
                folder,
                device=self._device,
                dtype=self._precision.weights,
                revision=revision,
                template=self._template,
                trust_remote_code=self._model.trust_remote_code,
            ),
            self._precision,
        )

    def base(self) -> Subject:
        """The bare base."""
        return Subject(self._engine, BASE_SLOT, self._engine.base.tokenizer)

    @contextmanager
    def result(self, run: RunFolder) -> Iterator[Subject]:
        """A run's adapter on the shared base, or its fine-tuned model; closed on leaving.

        Raises:
            StoreError: the run left no result.
            BadAdapter: the adapter is not the one that was saved, or belongs to other base weights.
        """
        if not run.adapter.is_dir():
            tuned = self._open(_model_of(run), identity(run))
            yield Subject(tuned, BASE_SLOT, tuned.base.tokenizer)
            return
        self._engine.open_saved(_SLOT, run.adapter)
        try:
            yield Subject(self._engine, _SLOT, self._engine.base.tokenizer)
        finally:
            self._engine.close(_SLOT)


def has_result(run: RunFolder) -> bool:
    """Whether a run left something to evaluate."""
    return run.adapter.is_dir() or run.model.is_dir()


def identity(run: RunFolder) -> str:
    """Hash of the weights a run left: sha256 of its adapter, or the fingerprint of its model folder.

    Raises:
        StoreError: the run left no result.
        BadAdapter: the adapter is not the one that was saved.
    """
    return read_integrity(run.adapter).sha256 if run.adapter.is_dir() else fingerprint(_model_of(run))


def _model_of(run: RunFolder) -> Path:
    if not run.model.is_dir():
        raise StoreError(
            "this run left no adapter and no model",
            where=str(run.path),
            remedy="only finished runs can be tested: resume it, or choose another (see ftcluster runs)",
        )
    return run.model
