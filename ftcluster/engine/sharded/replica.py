"""What every rank of a sharded engine does, each on its own documents; every method is a collective.

It is the ``local`` engine with three changes: a micro-batch is divided by documents, gradients are added up over the
ranks once per step, and where weights or optimizer state are sharded, DeepSpeed runs the model.

    LoRA, and full at stage 0   parameters whole on every rank; the local engine's own optimizer on each
    LoRA at stage 3             the same, around a frozen base whose weights are sharded
    full at stages 1 to 3       DeepSpeed's optimizer, see ``partitioned``

An adapter is thus never sharded: at stages 1 and 2 there is nothing of it worth sharding, and at stage 3 it cannot be
saved empty. All ranks go on with equal adapters, because they add up equal gradients in equal order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.contracts.ports import AdapterSettings, TrialOpening
from ftcluster.engine.local import LocalEngine, _Trial
from ftcluster.engine.precision import Precision
from ftcluster.engine.saved import OPTIMIZER
from ftcluster.engine.sharded.division import Part, evaluate_divided, one_token, part_of
from ftcluster.engine.sharded.dropout import Stream, drop_by_stream
from ftcluster.engine.sharded.loading import BaseSource, check_sharded_isolation, settle_deepspeed
from ftcluster.engine.sharded.partitioned import (
    MOMENTS,
    Through,
    fill_moments,
    fill_weights,
    run_by_deepspeed,
    run_frozen,
    saved_steps,
    set_steps,
    shapes_of,
    steps_done,
    whole_moments,
    whole_weights,
)
from ftcluster.engine.sharded.ranks import Ranks
from ftcluster.engine.sharded.reporting import Reporting
from ftcluster.engine.sharded.settings import stage_of
from ftcluster.engine.sharded.swapping import with_own_folder
from ftcluster.engine.sharded.writing import Writer
from ftcluster.errors import ModelError, UsageError
from ftcluster.models import adapters
from ftcluster.models.attention import attending_by_document
from ftcluster.models.base import Base

_BUCKET = 1 << 22  # elements of one reduction of small gradients, which are copied for it
_LARGE = 1 << 18  # elements of a gradient for which a copy costs more than a reduction of its own


class Replica(Reporting, LocalEngine):
    """One rank's share of the work; see ``ftcluster.contracts.ports.Engine`` for what each method promises."""

    def __init__(
        self,
        source: BaseSource,
        precision: Precision,
        ranks: Ranks,
        config: Mapping[str, Any],
        *,
        checkpointing: bool = False,
    ) -> None:
        """``config`` is DeepSpeed's, from ``settings.deepspeed_config``."""
        settle_deepspeed()
        super().__init__(source.whole, precision, checkpointing=checkpointing)
        self._source, self._ranks, self._config = source, ranks, with_own_folder(config, self)
        self._stage = stage_of(config)
        self._stream = Stream()
        self._engines: dict[int, Any] = {}  # DeepSpeed's, by slot of a partitioned trial
        self._due: set[int] = set()  # partitioned trials with gradients

    # Trials ------------------------------------------------------------------------------------------------------

    def _loaded(self) -> Base:
        """For adapters, or for a full fine-tune at stage 0."""
        if self._stage < 3:
            return super()._loaded()
        base = self._source.sharded(self._config)
        run_frozen(base.model, self._config)
        self._learn_order(base)
        check_sharded_isolation(base)
        return base

    def _learn_order(self, base: Base) -> None:
        """Two passes of an adapter for nothing, before any without gradients; see ``_warm_up``."""
        parameters = adapters.attach(base, "first", AdapterSettings(rank=1, alpha=1.0), seed=0)
        adapters.activate(base, "first")
        for _ in range(2):
            with attending_by_document(base.model):
                losses_N, *_ = self._losses(base, one_token(0))
            losses_N.sum().backward()  # type: ignore[no-untyped-call]
        parameters.clear()
        adapters.detach(base, "first")

    def open(self, trial: TrialOpening) -> None:
        if trial.adapter is None and self._stage > 0:
            self._open_partitioned(trial)
            return
        if trial.adapter is not None and trial.adapter.dora and self._stage == 3:
            remedy = "set engine.stage=2, which keeps the base whole on every rank, or adapter.dora=false"
            raise UsageError("DoRA reads whole weights, which stage 3 shards", where="adapter.dora", remedy=remedy)
        super().open(trial)
        adapter = self._trials[trial.slot].adapter
        if adapter is not None:
            drop_by_stream(self.base.model, adapter, self._stream)

    def _open_partitioned(self, trial: TrialOpening) -> None:
        if trial.slot in self._trials or trial.slot < 0:
            raise ValueError(f"slot {trial.slot} is taken or negative")
        if self._precision.weights is torch.float64:
            remedy = "set engine.stage=0 or engine.precision=fp32"
            raise UsageError("DeepSpeed keeps its masters in fp32", where="engine.precision=fp64", remedy=remedy)
        base = self._source.sharded(self._config) if self._stage == 3 else self._source.whole()
        parameters = dict(base.model.named_parameters())
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        made = _Trial(trial, base, parameters)
        engine = run_by_deepspeed(base.model, self._config, made.optimizer)
        made.base = replace(base, model=Through(engine))
        self._trials[trial.slot], self._engines[trial.slot] = made, engine
        try:
            self._warm_up(trial.slot)
            check_sharded_isolation(base)
        except ModelError:
            self.close(trial.slot)
            raise

    def _warm_up(self, slot: int) -> None:
        """Steps with a rate and gradients of zero, after which there are moments, and all memory of a step was had.

        They come before any pass without gradients: at stage 3 DeepSpeed learns here in which order weights are
        wanted, and one that learnt it from such a pass fetches them one by one ever after.
        """
        batch = one_token(slot)
        for _ in range(2):
            self._pass(Part(batch, (), batch.positions_T), slot, float("inf"), (0, 0), batch)
            self.step(slot, 0.0)
        set_steps(self._trials[slot].optimizer, 0)

    def close(self, slot: int) -> None:
        engine = self._engines.pop(slot, None)
        self._due.discard(slot)
        super().close(slot)
        if engine is not None:
            engine.destroy()

    # Passes ------------------------------------------------------------------------------------------------------

    def forward_backward(
        self, batch: Batch, normalisers: Mapping[int, float], clock: Mapping[int, tuple[int, int]]
    ) -> dict[int, LossSums]:
        slots = sorted(set(batch.slots))
        losses_S = torch.zeros(len(slots), dtype=torch.float64, device=self._ranks.device)
        sums: dict[int, LossSums] = {}
        for i, slot in enumerate(slots):
            mine = batch.select(slot)
            weight = mine.weight(slot)
            sums[slot] = LossSums(weight=weight, tokens=len(mine.tokens_T))
            if weight:  # else no rank has a gradient
                losses_S[i] = self._pass(part_of(mine, *self._seat), slot, normalisers[slot], clock[slot], mine)
        self._ranks.total(losses_S)
        return {slot: replace(sums[slot], loss=loss) for slot, loss in zip(slots, losses_S.tolist(), strict=True)}

    def try_out(self, batch: Batch) -> None:
        slots = sorted(set(batch.slots))
        try:
            for slot in slots:
                mine = batch.select(slot)
                self._pass(part_of(mine, *self._seat), slot, float("inf"), (0, 0), mine)
        finally:
            for slot in slots:
                self._forget_gradients(slot)

    def _forget_gradients(self, slot: int) -> None:
        engine = self._engines.get(slot)
        if engine is None:
            for parameter in self._trials[slot].parameters.values():
                parameter.grad = None
        else:
            self._due.discard(slot)
            engine.optimizer.zero_grad()

    def _pass(self, part: Part, slot: int, normaliser: float, clock: tuple[int, int], whole: Batch) -> float:
        """Loss sum of this rank's documents."""
        if slot in self._engines:
            normaliser /= self._ranks.size  # DeepSpeed means gradients over the ranks, and they are to be added
            self._due.add(slot)
        batch, trained = part.batch, bool(part.batch.weights_T.any())
        if not trained:
            # Others wait for this rank in their backward pass: it has one too, whose gradients are zero.
            batch = replace(batch, weights_T=torch.zeros_like(batch.weights_T).index_fill_(0, torch.tensor([0]), 1.0))
            normaliser = float("inf")
        with self._stream.of(len(whole.tokens_T), part.places_T.to(self._ranks.device)):
            sums = super().forward_backward(batch, {slot: normaliser}, {slot: clock})
        self._ranks.worked(len(batch.tokens_T) if trained else 0)
        return sums[slot].loss if trained else 0.0

    @property
    def _seat(self) -> tuple[int, int]:
        return self._ranks.rank, self._ranks.size

    def evaluate(self, batch: Batch) -> list[LossSums]:
        return evaluate_divided(batch, self._ranks, super().evaluate)

    def generate(
        self, slot: int, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: Sequence[int] = ()
    ) -> list[list[int]]:
        if self._stage == 3:  # every token needs all ranks, so all write the same answers
            return super().generate(slot, prompts, max_new_tokens, stops)
        mine = prompts[self._ranks.rank :: self._ranks.size]
        shares = self._ranks.gather(super().generate(slot, mine, max_new_tokens, stops) if mine else [])
        return [shares[i % self._ranks.size][i // self._ranks.size] for i in range(len(prompts))]

    def step(self, slot: int, lr: float) -> float:
        trial = self._trials[slot]
        engine = self._engines.get(slot)
        if engine is None:
            self._add_up([p for p in trial.parameters.values() if p.grad is not None])
            return super().step(slot, lr)
        if slot not in self._due:
            return 0.0
        self._due.remove(slot)
        for group in engine.optimizer.param_groups:
            group["lr"] = lr * group["times"]
        engine.step()
        norm = float(engine.get_global_grad_norm())
        return norm if norm >= 0 else float("nan")  # below zero: DeepSpeed's word for not finite

    def _add_up(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Gradients over the ranks: all ranks have them for the same parameters. Small ones go together."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for large in (gradient for gradient in gradients if gradient.numel() >= _LARGE):
            large.copy_(self._ranks.total(large.contiguous()))  # in place, and a copy onto itself is none
        for bucket in _buckets([gradient for gradient in gradients if gradient.numel() < _LARGE]):
            whole = self._ranks.total(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, added in zip(bucket, whole.split_with_sizes([g.numel() for g in bucket]), strict=True):
                gradient.copy_(added.view_as(gradient))

    # Files -------------------------------------------------------------------------------------------------------

    def export(self, slot: int, folder: Path) -> Any:
        if slot not in self._engines:
            return super().export(slot, folder) if self._ranks.leads else None
        writer = Writer(writes=self._ranks.leads)
        self._write_weights(writer, slot, folder, masters=False)
        writer.finish()
        return None

    def save(self, slot: int, folder: Path) -> None:
        if slot not in self._engines:
            if self._ranks.leads:
                super().save(slot, folder)
            return
        writer, trial = Writer(writes=self._ranks.leads), self._trials[slot]
        self._write_weights(writer, slot, folder, masters=True)
        steps = steps_done(trial.optimizer)
        shapes = shapes_of(trial.parameters) if steps else {}
        names = {f"{moment}:{name}": shape for moment in MOMENTS for name, shape in shapes.items()}
        names |= {f"step:{name}": () for name in shapes}
        moments = chain.from_iterable(whole_moments(trial.parameters, moment) for moment in MOMENTS)
        counters = (torch.tensor(float(steps)) for _ in shapes)
        writer.tensors(folder / OPTIMIZER, names, chain(moments, counters), torch.float32)
        writer.finish()

    def _write_weights(self, writer: Writer, slot: int, folder: Path, *, masters: bool) -> None:
        trial = self._trials[slot]
        tensors = whole_weights(trial.parameters, masters=masters)
        dtype = torch.float32 if masters else self._precision.weights
        writer.model(trial.base.model, folder, shapes_of(trial.parameters), tensors, dtype)

    def load(self, slot: int, folder: Path) -> None:
        engine = self._engines.get(slot)
        if engine is None:
            super().load(slot, folder)
            return
        trial, device = self._trials[slot], self._ranks.device
        fill_weights(trial.parameters, folder, device)
        fill_moments(trial.parameters, folder / OPTIMIZER, device)
        set_steps(trial.optimizer, saved_steps(folder / OPTIMIZER))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(g.numel() for g in bucket) + gradient.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
