"""What a process keeps warm between trials: engines with their loaded base, and prepared data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from ftcluster.config.compose import resolve_home
from ftcluster.config.schema import RunConfig
from ftcluster.config.sharding import WEIGHTS, shards, shares_sharded
from ftcluster.contracts.ports import AdapterSettings
from ftcluster.data.audit import judge, refuse_bad_data
from ftcluster.data.prepared.fingerprint import HASHES, file_sha256
from ftcluster.data.prepared.folder import PreparedData, open_prepared
from ftcluster.data.prepared.prepare import prepare
from ftcluster.data.prepared.settings import data_settings
from ftcluster.data.text.chat_template import template_text
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision, choose_device, choose_precision
from ftcluster.engine.sharded.engine import ShardedEngine
from ftcluster.engine.sharded.ranks import Seat
from ftcluster.errors import UsageError
from ftcluster.models.base import (
    Base,
    check_folder,
    check_vocabulary,
    fingerprint,
    has_dropout,
    load_base,
    skeleton,
)
from ftcluster.models.portable import portable
from ftcluster.models.size import adapter_parameters, parameters
from ftcluster.models.targets import resolve_targets
from ftcluster.models.tokenizer import load_tokenizer
from ftcluster.tracking.lineage import lineage
from ftcluster.training.sharding import Group, Sharding
from ftcluster.units import format_count

_TOKENIZER_FILES = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template")


AnyEngine = LocalEngine | PackedEngine | ShardedEngine


@dataclass(frozen=True)
class _Key:
    """What trials have in common that an engine serves."""

    packed: bool
    exact: bool
    checkpointing: bool
    base: str
    revision: str
    device: torch.device
    precision: Precision
    sharding: Sharding | None

    @classmethod
    def of(cls, config: RunConfig) -> _Key:
        engine, device = config.engine, choose_device(config.engine.device)
        precision = choose_precision(engine.precision, device, full=config.adapter.kind == "none")
        return cls(
            packs(config),
            engine.mode == "exact",
            engine.activation_checkpointing,
            config.model.path,
            config.model.revision,
            device,
            precision,
            Sharding.of(config, device, precision) if shards(config) else None,
        )


class Bench:
    """Engines by the base they hold; a trial that needs the same base finds it loaded."""

    def __init__(self) -> None:
        self._engines: dict[_Key, AnyEngine] = {}
        self._passed: dict[tuple[_Key, AdapterSettings | None], int] = {}
        self._next_slot = 0
        self._group = Group()
        self._passes = 0

    def engine(self, config: RunConfig) -> AnyEngine:
        """The engine for a config's base, device and precision, made on first use."""
        key = _Key.of(config)
        device, precision = key.device, key.precision

        def load() -> Base:
            base = load_base(
                Path(config.model.path),
                device=device,
                dtype=precision.weights,
                revision=config.model.revision,
                trust_remote_code=config.model.trust_remote_code,
            )
            base.model.base_model.register_forward_pre_hook(self._note_pass)
            return base

        if key not in self._engines:
            # One base at a time: a host that moves on to another base must not hold both.
            self._engines, self._passed = {}, {}
            if key.sharding:
                self._engines[key] = self._group.engine(key.sharding)
            elif key.packed:
                self._engines[key] = PackedEngine(load, precision, exact=key.exact, checkpointing=key.checkpointing)
            else:
                self._engines[key] = LocalEngine(load, precision, checkpointing=key.checkpointing)
            if device.type == "cuda":
                torch.cuda.empty_cache()
                # Several CUDA kernels add in any order unless told otherwise; resume promises the same bits.
                torch.use_deterministic_algorithms(True, warn_only=True)
        return self._engines[key]

    def lead(self, seat: Seat) -> None:
        """Train sharded trials with the group that meets there, as its rank 0."""
        self._group = Group(seat)

    @property
    def beats(self) -> int:
        """Signs of life so far: passes through a base, a token of an answer too, and calls led over several ranks."""
        return self._passes + self._group.orders

    def _note_pass(self, *_: object) -> None:
        self._passes += 1

    def watch(self, folder: Path) -> None:
        """Ranks that hang leave their stacks in this folder from now on."""
        self._group.watch(folder)

    def close(self) -> None:
        """Let the other ranks of a sharded trial go."""
        self._engines, self._passed = {}, {}
        self._group.close()

    def holds(self, config: RunConfig) -> bool:
        """Whether the engine for a config is there, its base loaded."""
        return _Key.of(config) in self._engines

    def passed(self, config: RunConfig) -> int:
        """Tokens of the largest pass that is known to fit, of trials like a config's on the engine that is there."""
        return self._passed.get((_Key.of(config), _trained(config)), 0)

    def note_pass(self, config: RunConfig, tokens: int) -> None:
        """A pass of that many tokens did fit."""
        self._passed[_Key.of(config), _trained(config)] = max(tokens, self.passed(config))

    def slot(self) -> int:
        """A slot number no trial of this process has had."""
        self._next_slot += 1
        return self._next_slot

    @property
    def trials(self) -> int:
        """How many have had a slot so far."""
        return self._next_slot


def prepare_data(config: RunConfig, progress: Callable[[int, int], None] | None = None) -> PreparedData:
    """Read, check, split and tokenise a config's data, or find it done already.

    Raises:
        DataError: files missing, too many rows that cannot be used, or a finding above data.refuse.
        ModelError: the model or its tokenizer cannot be used, or lacks an adapter target.
    """
    folder = Path(config.model.path)
    tokenizer = checked_tokenizer(config)
    home = resolve_home(config)
    load = portable(tokenizer) or partial(
        load_tokenizer,
        folder,
        template=template_text(config.data.template),
        trust_remote_code=config.model.trust_remote_code,
    )
    settings = data_settings(config, home / "downloads")
    data = prepare(settings, tokenizer, tokenizer_id(folder), home / "prepared", progress, load=load)
    refuse_bad_data(judge(data.report, config.data.warn, config.data.refuse))
    return data


def data_files(config: RunConfig) -> list[Path]:
    """The local files a config's data is read from; what is remote was downloaded when it was prepared.

    Raises:
        DataError: a file that is not there, or cannot be had.
    """
    return [Path(file.name) for file in data_settings(config, resolve_home(config) / "downloads").files()]


def data_lineage(config: RunConfig) -> dict[str, str]:
    """Where a run comes from, as tags; files that were hashed when they were prepared are not read again."""
    memory = resolve_home(config) / "prepared" / HASHES
    return lineage(data_files(config), lambda file: file_sha256(file, memory))


def checked_tokenizer(config: RunConfig) -> Any:
    """The tokenizer, once everything is refused that can be without loading the weights.

    Raises:
        DataError: a chat template that cannot be used.
        ModelError: the model or its tokenizer cannot be used, or lacks an adapter target.
    """
    folder = Path(config.model.path)
    check_folder(folder)
    template = template_text(config.data.template)
    tokenizer = load_tokenizer(folder, template=template, trust_remote_code=config.model.trust_remote_code)
    model = skeleton(folder, trust_remote_code=config.model.trust_remote_code)
    check_vocabulary(model.get_input_embeddings().weight.shape[0], tokenizer, folder)
    check_targets(config)
    packs(config)
    return tokenizer


def check_targets(config: RunConfig) -> None:
    """Refuse adapter targets that the model does not have, without loading its weights.

    Raises:
        ModelError: naming those it has.
    """
    if config.adapter.kind == "lora":
        model = skeleton(Path(config.model.path), trust_remote_code=config.model.trust_remote_code)
        resolve_targets(model, config.adapter.targets)


def packs(config: RunConfig) -> bool:
    """Whether a config's trials can train together on one frozen base.

    Raises:
        UsageError: packing is asked for by name and cannot be had.
    """
    if config.adapter.kind != "lora" or config.engine.name == "local":
        return False
    if shards(config) and not shares_sharded(config):
        return False
    problem = unpacked(config)
    if problem and config.engine.name == "packed":
        remedy = "use engine=auto, which trains such trials one at a time"
        raise UsageError(problem, where="engine.name", remedy=remedy)
    return not problem


def unpacked(config: RunConfig) -> str:
    """Why the LoRA trials of a config cannot share a base; empty if they can."""
    if config.adapter.dora:
        return "DoRA trials cannot share passes yet"
    model = skeleton(Path(config.model.path), trust_remote_code=config.model.trust_remote_code)
    # It draws from one random generator, which trials would share.
    return "the base has dropout of its own, so trials cannot share it" if has_dropout(model) else ""


def engine_note(config: RunConfig, *, sweep: bool = False) -> str:
    """What people should know about the engine that a config gets: nothing, if it is the one they would expect."""
    if config.adapter.kind != "lora" or shares_sharded(config):
        return ""
    if shards(config):
        if not sweep or config.engine.stage != WEIGHTS or unpacked(config):
            return ""
        return "hosts train a trial at a time; engine=packed_zero3 trains several on a base sharded like that"
    if config.engine.name != "auto" or not (problem := unpacked(config)):
        return ""
    return f"{problem}: they train one at a time"


@dataclass(frozen=True)
class Size:
    """Numbers a model has in all, and those that are trained."""

    total: int
    trained: int

    def __str__(self) -> str:
        return f"{format_count(self.trained)} of {format_count(self.total)} parameters"


def size_of(config: RunConfig) -> Size:
    """Counted without loading weights.

    Raises:
        ModelError: the model cannot be used, or lacks an adapter target.
    """
    model = skeleton(Path(config.model.path), trust_remote_code=config.model.trust_remote_code)
    total = parameters(model)
    if config.adapter.kind == "none":
        return Size(total, total)
    return Size(total, adapter_parameters(model, adapter_settings(config)))


def _trained(config: RunConfig) -> AdapterSettings | None:
    return None if config.adapter.kind == "none" else adapter_settings(config)


def adapter_settings(config: RunConfig) -> AdapterSettings:
    """The config's adapter, as engines are told of it."""
    adapter = config.adapter
    return AdapterSettings(
        adapter.rank, adapter.alpha, adapter.dropout, tuple(adapter.targets), adapter.rslora, adapter.dora
    )


@lru_cache(maxsize=16)
def base_revision(folder: str, configured: str) -> str:
    """Identity of a base's weights: what the config says, or a hash of them."""
    return configured or fingerprint(Path(folder))


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
def tokenizer_of(folder: str, trust_remote_code: bool, template: str | None) -> Any:
    """A model's tokenizer with the chat template of its data, loaded once per process."""
    return load_tokenizer(Path(folder), template=template, trust_remote_code=trust_remote_code)
