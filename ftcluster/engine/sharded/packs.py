"""Packs of LoRA trials over a base that no single device holds: ZeRO-3 shards the frozen base, and it alone.

Each trial lives whole on one rank, its owner: adapter, gradients, moments, and all its training tokens. All ranks go
through the base together, each with the tokens of its own trials, so that the weights gathered layer by layer serve
them all; nothing of an adapter is ever reduced or sharded. A trial thus computes what it would in a process of its
own, bit for bit in exact mode, whoever its companions are and however many ranks there are.

    rank 0   trials 1, 3   tokens of 1, 3 -->  layer: gather W -> products -> release  --> losses of 1, 3 -> step
    rank 1   trial 2       tokens of 2    -->  layer: gather W -> products -> release  --> losses of 2    -> step

For evaluation and answers the owner lends the adapter to all ranks, which divide the documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from deepspeed.utils import set_z3_leaf_module

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.contracts.ports import BASE_SLOT, AdapterSettings, TrialOpening
from ftcluster.engine.checkpoint import storing
from ftcluster.engine.memory import Passes, free, measure_passes
from ftcluster.engine.packed.bank import bucket_of
from ftcluster.engine.packed.engine import Packed, PackedEngine, replace_layers
from ftcluster.engine.precision import Precision
from ftcluster.engine.sharded.division import evaluate_divided, one_token
from ftcluster.engine.sharded.loading import BaseSource, check_sharded_isolation, gathered, settle_deepspeed
from ftcluster.engine.sharded.partitioned import run_frozen
from ftcluster.engine.sharded.ranks import Ranks
from ftcluster.engine.sharded.reporting import Reporting
from ftcluster.engine.sharded.swapping import with_own_folder
from ftcluster.errors import ModelError
from ftcluster.models.checkpointing import layers_of
from ftcluster.models.output import find_output


class PackedReplica(Reporting, PackedEngine):
    """One rank's trials; see ``ftcluster.contracts.ports.Engine``. All ranks must call each method."""

    _told_plainly = True  # what breaks off a pass here breaks it off on all ranks

    def __init__(
        self,
        source: BaseSource,
        precision: Precision,
        ranks: Ranks,
        config: Mapping[str, Any],
        *,
        exact: bool = True,
        checkpointing: bool = False,
    ) -> None:
        """``config`` is DeepSpeed's, from ``settings.deepspeed_config``, at stage 3."""
        settle_deepspeed()
        super().__init__(source.whole, precision, exact=exact, checkpointing=checkpointing)
        self._source, self._ranks, self._config = source, ranks, with_own_folder(config, self)
        self._openings: dict[int, tuple[TrialOpening, int]] = {}  # of all ranks' trials, and whose they are

    def _make(self) -> Packed:
        base = self._source.sharded(self._config)
        head, layers = _head_of(base.model), layers_of(base.model)
        if not layers:  # what is in one is called as often as there are trials, and the ranks compare calls
            raise _no_pack(base.model, "its decoder layers are not marked as such")
        around_head = partial(gathered, list(head.parameters()))
        sites, route = replace_layers(base)
        for layer in layers:
            set_z3_leaf_module(layer, True)
        run_frozen(base.model.base_model, self._config)
        _keep_whole_in_calls(head, around_head)
        output = find_output(base.model)
        if not output.plain:
            raise _no_pack(base.model, "its logits are more than a product with its head")
        self._made = Packed(base, sites, output, route, around_head)
        try:
            self._learn_order()
            check_sharded_isolation(base)
        except BaseException:
            self._made = None
            raise
        return self._made

    def _learn_order(self) -> None:
        """Two passes for nothing, after which DeepSpeed knows in which order weights are wanted, backwards too."""
        for _ in range(2):
            self._pass_of(one_token(BASE_SLOT), {}, {})

    # Trials ------------------------------------------------------------------------------------------------------

    def open(self, trial: TrialOpening, owner: int = 0) -> None:
        self._prepare()
        self._openings[trial.slot] = (trial, owner)
        if owner == self._ranks.rank:
            super().open(trial)

    def close(self, slot: int) -> None:
        self._openings.pop(slot, None)
        if slot in self._trials:
            super().close(slot)

    def _prepare(self) -> None:
        """Have the base loaded, which takes all ranks."""
        _ = self._packed

    @contextmanager
    def _lent(self, slot: int) -> Iterator[None]:
        """The adapter of one rank's trial on all ranks, as it is now."""
        self._prepare()
        if slot == BASE_SLOT:
            yield
            return
        if slot not in self._openings:
            raise ValueError(f"slot {slot} holds no trial")
        opening, owner = self._openings[slot]
        lent = owner != self._ranks.rank
        if lent:
            assert opening.adapter is not None
            self._trial(opening, opening.adapter, self._bank(bucket_of(opening.adapter.rank)))
        try:
            trial = self._trials[slot]
            self._ranks.spread(trial.bank.master[trial.row], owner)
            trial.bank.refresh(trial.row)
            yield
        finally:
            if lent:
                del self._trials[slot]

    # Passes ------------------------------------------------------------------------------------------------------

    def forward_backward(
        self, batch: Batch, normalisers: Mapping[int, float], clock: Mapping[int, tuple[int, int]]
    ) -> dict[int, LossSums]:
        slots = sorted(set(batch.slots))
        parts = {slot: batch.select(slot) for slot in slots}
        losses_S = torch.zeros(len(slots), dtype=torch.float64, device=self._ranks.device)
        if batch.weights_T.any():  # else no rank has a gradient
            own = [part for slot, part in parts.items() if slot in self._trials]
            trained = any(part.weights_T.any() for part in own)
            if not trained:  # others wait for this rank in their backward pass: it has one too, of zeros
                own.append(one_token(BASE_SLOT))
            sums = self._pass_of(Batch.joined(own), normalisers, clock)
            self._ranks.worked(sum(len(part.tokens_T) for part in own) if trained else 0)
            for i, slot in enumerate(slots):
                losses_S[i] = sums[slot].loss if slot in sums else 0.0
        self._ranks.total(losses_S)
        return {
            slot: LossSums(loss, part.weight(slot), len(part.tokens_T))
            for (slot, part), loss in zip(parts.items(), losses_S.tolist(), strict=True)
        }

    def _pass_of(
        self, batch: Batch, normalisers: Mapping[int, float], clock: Mapping[int, tuple[int, int]]
    ) -> dict[int, LossSums]:
        try:
            return super().forward_backward(batch, {**normalisers, BASE_SLOT: math.inf}, clock)
        except ModelError as error:  # on this rank perhaps, while others wait in a collective
            raise RuntimeError(str(error)) from error

    def _forget_gradients(self, slots: Sequence[int]) -> None:
        super()._forget_gradients([slot for slot in slots if slot in self._trials])

    def evaluate(self, batch: Batch) -> list[LossSums]:
        def alone(part: Batch) -> list[LossSums]:
            with self._lent(part.slots[0]):
                return PackedEngine.evaluate(self, part)

        return evaluate_divided(batch, self._ranks, alone)

    def generate(
        self, slot: int, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: Sequence[int] = ()
    ) -> list[list[int]]:
        with self._lent(slot):  # every token needs all ranks, so all write the same answers
            return super().generate(slot, prompts, max_new_tokens, stops)

    def step_many(self, rates: Mapping[int, float]) -> dict[int, float]:
        mine = super().step_many({slot: lr for slot, lr in rates.items() if slot in self._trials})
        norms_S = torch.tensor([mine.get(slot, 0.0) for slot in rates], dtype=torch.float64, device=self._ranks.device)
        return dict(zip(rates, self._ranks.total(norms_S).tolist(), strict=True))

    # What there is room for --------------------------------------------------------------------------------------

    def costs(self, adapter: AdapterSettings) -> list[int]:
        """Bytes that a trial with such an adapter would take, by rank, and one that is lent meanwhile."""
        self._prepare()
        return self._ranks.gather(super().cost(adapter) + self._bank(bucket_of(adapter.rank)).row_bytes)

    def measure(self, adapter: AdapterSettings, longest: int) -> list[Passes]:
        """What passes need, by rank; see ``measure_passes``."""
        return self._ranks.gather(measure_passes(cast(PackedEngine, super()), adapter, longest))

    def free(self, limit: int) -> list[int]:
        """Bytes that each rank may still take."""
        return self._ranks.gather(free(self._ranks.device, limit))

    # Files -------------------------------------------------------------------------------------------------------

    def save(self, slot: int, folder: Path) -> None:
        if slot in self._trials:
            with storing("the state of a trial", folder):  # told as what it is, on whichever rank
                super().save(slot, folder)

    def export(self, slot: int, folder: Path) -> Any:
        if slot not in self._trials:
            return None
        with storing("the adapter of a trial", folder):
            return super().export(slot, folder)

    def load(self, slot: int, folder: Path) -> None:
        if slot in self._trials:
            super().load(slot, folder)


def _head_of(model: Any) -> torch.nn.Linear:
    """The one module outside the decoder that has weights.

    Raises:
        ModelError: the model is made otherwise.
    """
    head = model.get_output_embeddings()
    known = {id(parameter) for part in (model.base_model, head) if part is not None for parameter in part.parameters()}
    if not isinstance(head, torch.nn.Linear) or any(id(parameter) not in known for parameter in model.parameters()):
        raise _no_pack(model, "it is no decoder with a plain linear head")
    return head


def _no_pack(model: Any, why: str) -> ModelError:
    remedy = "use engine=deepspeed, which trains such trials one at a time"
    return ModelError(f"{type(model).__name__} cannot be shared by trials where it is sharded: {why}", remedy=remedy)


def _keep_whole_in_calls(head: torch.nn.Module, whole: Callable[[], AbstractContextManager[None]]) -> None:
    """DeepSpeed runs the decoder; where the whole model is called, the head's weights are gathered here."""
    entered = ExitStack()

    def enter(*_: object) -> None:
        entered.enter_context(whole())

    def leave(*_: object) -> None:
        entered.close()

    head.register_forward_pre_hook(enter)
    head.register_forward_hook(leave, always_call=True)
