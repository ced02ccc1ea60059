"""The seams of the system: what an engine and a tracker must do, whoever implements them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.contracts.trial import RunState

BASE_SLOT = -1  # the bare base model, for evaluation and generation only


@dataclass(frozen=True)
class AdapterSettings:
    """LoRA as the paper and PEFT define it: ``W + scale * B A``, scale ``alpha / r`` (rsLoRA: ``alpha / sqrt(r)``).

    DoRA (Liu et al. 2024) besides trains the length of each row of that sum.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    rslora: bool = False
    dora: bool = False


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (Loshchilov & Hutter 2019) with decoupled decay; ``clip`` is the largest gradient norm, 0 for none.

    ``lora_plus`` is the rate of an adapter's B over that of its A (LoRA+, Hayou et al. 2024).
    """

    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0
    lora_plus: float = 1.0


@dataclass(frozen=True)
class TrialOpening:
    """What an engine needs to take a trial in. ``adapter=None`` trains every weight of the model."""

    slot: int
    seed: int
    optimizer: OptimizerSettings
    adapter: AdapterSettings | None = None


class Engine(Protocol):
    """Trains one or several trials on a base model. Slots are small integers chosen by the caller.

    Laws, checked by ``tests/contract/test_engine.py`` for every implementation: accumulation equals one
    large batch; rows of weight zero are no-ops, and so is a pass that is tried out; twin trials agree bit for bit;
    closing one trial leaves the others unchanged; a loaded trial goes on as if it had never been saved.
    """

    lanes: Mapping[int, int]  # by slot: where its tokens are computed in a pass; slots that are missing are in lane 0

    def open(self, trial: TrialOpening) -> None:
        """Take a trial in, freshly initialised from its seed.

        Raises:
            ModelError: an adapter target the model does not have.
        """

    def forward_backward(
        self, batch: Batch, normalisers: Mapping[int, float], clock: Mapping[int, tuple[int, int]]
    ) -> dict[int, LossSums]:
        """Add the gradients of ``sum(weight * loss) / normaliser`` per slot; returns un-normalised sums.

        ``normalisers[slot]`` is the total weight of that trial's whole global batch, so that accumulated
        micro-batches equal one large batch. ``clock[slot]`` is (step, micro-batch): dropout is a function of it.
        """

    def try_out(self, batch: Batch) -> None:
        """A training pass between two steps, with all its memory, that changes no bit of what comes after it."""

    def evaluate(self, batch: Batch) -> list[LossSums]:
        """Loss sums per document of the batch, without gradients or dropout; slot ``BASE_SLOT`` is the base."""

    def generate(
        self, slot: int, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: Sequence[int] = ()
    ) -> list[list[int]]:
        """Greedy answers as tokens, up to and with one of ``stops`` (none given: the model's own)."""

    def step(self, slot: int, lr: float) -> float:
        """One optimizer step of one trial; gradients are cleared. Returns the norm before clipping."""

    def step_many(self, rates: Mapping[int, float]) -> dict[int, float]:
        """``step`` of several trials, slot -> learning rate, at once where the engine can; other trials stay as is."""

    def save(self, slot: int, folder: Path) -> None:
        """Write weights and optimizer state of a trial into an existing folder."""

    def export(self, slot: int, folder: Path) -> Any:
        """Write the trained result alone, for others: PEFT's adapter format or a Hugging Face model folder."""

    def load(self, slot: int, folder: Path) -> None:
        """Replace an open trial's weights and optimizer state by what ``save`` wrote."""

    def close(self, slot: int) -> None:
        """Forget a trial; its memory is free afterwards."""


class Tracker(Protocol):
    """Where a run's records go. Calls return at once and never raise because a server is away."""

    def params(self, values: Mapping[str, Any]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """A (name, step) that this run already recorded is ignored, so a resumed run doubles nothing."""

    def artifact(self, path: Path, under: str = "") -> None:
        """A file or folder to store with the run, below the artefact path ``under``."""

    def state(self, state: RunState, reason: str = "") -> None: ...

    def flush(self) -> None:
        """Make everything recorded so far durable on this machine."""
