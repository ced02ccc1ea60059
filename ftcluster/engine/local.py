"""The reference engine: plain torch and PEFT on one device, one trial after the other.

It holds one frozen base; LoRA trials hang their adapters on it, a full fine-tune gets a copy of its own.
Work per micro-batch: one forward over the padding-free stream, logits only where a token carries loss.

    tokens_T -> decoder (attention per document) -> hidden at trained positions N -> logits_NV -> loss sums

Does not own data order, schedules or checkpoints' commitment; see ``training`` and ``checkpoint``.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.contracts.ports import BASE_SLOT, AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine.precision import Precision
from ftcluster.engine.saved import OPTIMIZER, check_base
from ftcluster.engine.sums import document_sums
from ftcluster.models import adapters
from ftcluster.models.attention import Documents, attending_by_document, check_isolation
from ftcluster.models.base import Base, save_model
from ftcluster.models.checkpointing import checkpointing
from ftcluster.models.generation import generate
from ftcluster.models.integrity import Integrity, check_adapter, write_integrity
from ftcluster.objectives.cross_entropy import token_losses

LoadBase = Callable[[], Base]


@dataclass
class _Trial:
    opening: TrialOpening
    base: Base  # shared and frozen for LoRA, its own for a full fine-tune
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        settings = self.opening.optimizer
        upper = [p for name, p in self.parameters.items() if ".lora_B." in name]
        others = [p for name, p in self.parameters.items() if ".lora_B." not in name]
        groups = [{"params": others, "times": 1.0}, {"params": upper, "times": settings.lora_plus}]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=0.0,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    @property
    def adapter(self) -> str | None:
        return None if self.opening.adapter is None else f"slot{self.opening.slot}"

    def take_moments(self) -> None:
        """Have the optimizer's state now, as torch makes it at the first step, so that its memory is counted."""
        for parameter in self.parameters.values():
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


class LocalEngine:
    """See ``ftcluster.contracts.ports.Engine`` for what each method promises."""

    lanes: Mapping[int, int] = MappingProxyType({})

    def __init__(self, load: LoadBase, precision: Precision, *, checkpointing: bool = False) -> None:
        """``checkpointing``: keep each layer's input alone for the backward pass."""
        self._load = load
        self._precision, self._checkpointing = precision, checkpointing
        self._shared: Base | None = None
        self._trials: dict[int, _Trial] = {}

    @property
    def base(self) -> Base:
        """The frozen base that LoRA trials share, loaded on first use."""
        if self._shared is None:
            self._shared = self._loaded()
        return self._shared

    def _loaded(self) -> Base:
        base = self._load()
        check_isolation(base.model, base.device)
        return base

    @property
    def slots(self) -> list[int]:
        """Those that hold a trial."""
        return sorted(self._trials)

    def open(self, trial: TrialOpening) -> None:
        if trial.slot in self._trials or trial.slot < 0:
            raise ValueError(f"slot {trial.slot} is taken or negative")
        if trial.adapter is None:
            base = self._loaded()
            parameters = dict(base.model.named_parameters())
            for parameter in parameters.values():
                parameter.requires_grad_(True)
        else:
            base = self.base
            parameters = adapters.attach(base, f"slot{trial.slot}", trial.adapter, trial.seed)
        self._trials[trial.slot] = made = _Trial(trial, base, parameters)
        if trial.adapter is None:
            made.take_moments()

    def open_saved(self, slot: int, folder: Path) -> None:
        """Hang a saved adapter on the shared base, to be evaluated and asked, not trained on.

        Raises:
            BadAdapter: it is not what was saved, or was trained on other weights than this base's.
            StoreError: its weights do not fit its config.
        """
        if slot in self._trials or slot < 0:
            raise ValueError(f"slot {slot} is taken or negative")
        check_base(self.base, folder)
        parameters = adapters.attach_saved(self.base, f"slot{slot}", folder)
        # The rank only marks it as an adapter; PEFT took the real settings from the adapter's own config.
        opening = TrialOpening(slot, 0, OptimizerSettings(), AdapterSettings(rank=0, alpha=0.0))
        self._trials[slot] = _Trial(opening, self.base, parameters)

    def forward_backward(
        self, batch: Batch, normalisers: Mapping[int, float], clock: Mapping[int, tuple[int, int]]
    ) -> dict[int, LossSums]:
        sums = {}
        for slot in sorted(set(batch.slots)):
            mine = batch.select(slot)
            seed = _dropout_seed(self._trials[slot].opening.seed, *clock[slot])
            with (
                self._active(slot, training=True) as base,
                _seeded(seed, base.device),
                attending_by_document(base.model),  # also where layers are computed again, in the backward pass
            ):
                with checkpointing(base.model) if self._checkpointing else nullcontext():
                    losses_N, weights_N, _ = self._losses(base, mine)
                total = (losses_N * weights_N).sum()
                if weights_N.numel():
                    (total / normalisers[slot]).backward()  # type: ignore[no-untyped-call]
            sums[slot] = LossSums(total.item(), float(weights_N.double().sum()), len(mine.tokens_T))
        return sums

    def try_out(self, batch: Batch) -> None:
        slots = sorted(set(batch.slots))
        mine = [parameter for slot in slots for parameter in self._trials[slot].parameters.values()]
        for parameter in mine:  # of a micro-batch before, as it is for all but the first
            parameter.grad = torch.zeros_like(parameter)
        try:
            self.forward_backward(batch, dict.fromkeys(slots, float("inf")), dict.fromkeys(slots, (0, 0)))
        finally:
            for parameter in mine:
                parameter.grad = None

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> list[LossSums]:
        sums: list[LossSums] = [LossSums()] * len(batch.lengths)
        for slot in sorted(set(batch.slots)):
            mine = batch.select(slot)
            rows = [row for row, owner in enumerate(batch.slots) if owner == slot]
            with self._active(slot, training=False) as base, attending_by_document(base.model):
                losses_N, weights_N, at_N = self._losses(base, mine)
            for row, found in zip(rows, document_sums(mine, at_N, losses_N, weights_N), strict=True):
                sums[row] = found
        return sums

    def generate(
        self, slot: int, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: Sequence[int] = ()
    ) -> list[list[int]]:
        with self._active(slot, training=False) as base:
            return generate(base, prompts, max_new_tokens, stops=stops)

    def step(self, slot: int, lr: float) -> float:
        trial = self._trials[slot]
        clip = trial.opening.optimizer.clip
        parameters = list(trial.parameters.values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip if clip > 0 else float("inf"))
        for group in trial.optimizer.param_groups:
            group["lr"] = lr * group["times"]
        trial.optimizer.step()
        trial.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def step_many(self, rates: Mapping[int, float]) -> dict[int, float]:
        return {slot: self.step(slot, lr) for slot, lr in rates.items()}

    def save(self, slot: int, folder: Path) -> None:
        trial = self._trials[slot]
        self.export(slot, folder)
        names = {id(p): name for name, p in trial.parameters.items()}
        state: dict[str, Tensor] = {}
        for parameter, entries in trial.optimizer.state.items():
            for key, value in entries.items():
                state[f"{key}:{_plain(names[id(parameter)], trial.adapter)}"] = value.detach().cpu().contiguous()
        save_file(state, folder / OPTIMIZER)

    def export(self, slot: int, folder: Path) -> Integrity | None:
        """Write the result for others: PEFT's format, checked, or a Hugging Face model folder.

        Raises:
            BadAdapter: the integrity gate refused what was written.
        """
        trial = self._trials[slot]
        if trial.adapter is None:
            save_model(trial.base, folder)
            return None
        adapters.save_adapter(trial.base, trial.adapter, folder)
        shapes = {name: tuple(t.shape) for name, t in adapters.adapter_tensors(trial.base, trial.adapter).items()}
        integrity = check_adapter(folder, shapes=shapes, base_revision=trial.base.revision)
        write_integrity(folder, integrity)
        return integrity

    def load(self, slot: int, folder: Path) -> None:
        trial = self._trials[slot]
        if trial.adapter is not None:
            check_base(trial.base, folder)
            adapters.load_adapter_weights(trial.parameters, trial.adapter, folder)
        else:
            saved = load_weights(folder)
            with torch.no_grad():
                for name, parameter in trial.parameters.items():
                    parameter.copy_(saved[name])
        by_name = {_plain(name, trial.adapter): p for name, p in trial.parameters.items()}
        trial.optimizer.state.clear()
        for name, value in load_file(folder / OPTIMIZER).items():
            key, _, path = name.partition(":")
            parameter = by_name[path]
            # The step counter stays where fused AdamW keeps it: fp32, on the parameter's device.
            kept = value.to(parameter.device) if key == "step" else value.to(parameter.device, parameter.dtype)
            trial.optimizer.state.setdefault(parameter, {})[key] = kept

    def close(self, slot: int) -> None:
        trial = self._trials.pop(slot)
        if trial.adapter is not None:
            adapters.detach(trial.base, trial.adapter)

    @contextmanager
    def _active(self, slot: int, *, training: bool) -> Iterator[Base]:
        """The slot's model with only its own adapter switched on, in training mode or not."""
        trial = self._trials.get(slot)
        if trial is None and slot != BASE_SLOT:
            raise ValueError(f"slot {slot} holds no trial")
        base = trial.base if trial else self.base
        adapters.activate(base, trial.adapter if trial else None)
        base.model.train(training)
        yield base

    def _losses(self, base: Base, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and weight of every token that carries loss, and where it stands in the stream, [N] each."""
        at_N = batch.weights_T.nonzero().squeeze(1)
        documents = Documents.of(batch.lengths, base.device)
        keep = {"logits_to_keep": at_N.to(base.device)} if _keeps_logits(base) else {}
        with self._autocast(base):
            logits = base.model(
                input_ids=batch.tokens_T.to(base.device).unsqueeze(0),
                position_ids=batch.positions_T.to(base.device).unsqueeze(0),
                use_cache=False,
                documents=documents,
                **keep,
            ).logits[0]
        logits_NV = logits if keep else logits[at_N.to(base.device)]
        losses_N = token_losses(logits_NV, batch.targets_T[at_N].to(base.device))
        return losses_N, batch.weights_T[at_N].to(losses_N), at_N

    def _autocast(self, base: Base) -> AbstractContextManager[object]:
        if self._precision.autocast is None:
            return nullcontext()
        return torch.autocast(base.device.type, dtype=self._precision.autocast)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a saved model folder, whether it is one file or several."""
    index = folder / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    return {name: tensor for file in files for name, tensor in load_file(folder / file).items()}


def _plain(name: str, adapter: str | None) -> str:
    """A parameter's name without its slot, so that a trial may be loaded into another slot."""
    return name.replace(f".{adapter}.", ".") if adapter else name


def _keeps_logits(base: Base) -> bool:
    return "logits_to_keep" in inspect.signature(base.model.forward).parameters


def _dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    digest = hashlib.sha256(f"dropout:{seed}:{step}:{micro_batch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout as a function of the trial's clock: a resumed trial needs no saved generator."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
