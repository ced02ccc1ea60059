"""The packed engine: LoRA trials of one base train together, each exactly as if it were alone.

    batch (documents of many slots) -> stream sorted by slot -> one pass through the base, with each trial's adapter
    on its own tokens -> loss sums per trial -> gradients into the bank -> one AdamW pass over the trials' rows

A trial is a row of a ``Bank``: it comes and goes between steps without anything being loaded, moved or compiled.
Nothing here reads the global random generator. Full fine-tunes are the ``local`` engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.contracts.ports import BASE_SLOT, AdapterSettings, TrialOpening
from ftcluster.engine.packed.adamw import Update
from ftcluster.engine.packed.bank import Bank, Site, bucket_of
from ftcluster.engine.packed.layer import PackedActivation, PackedLinear
from ftcluster.engine.packed.route import Pass, Route, Segment
from ftcluster.engine.precision import Precision
from ftcluster.engine.saved import OPTIMIZER, check_base
from ftcluster.engine.shortage import StepUndone, is_shortage, let_go
from ftcluster.engine.sums import document_sums
from ftcluster.errors import TrialError
from ftcluster.models import adapters
from ftcluster.models.activations import activations
from ftcluster.models.attention import Documents, attending_by_document, check_isolation
from ftcluster.models.base import Base
from ftcluster.models.checkpointing import checkpointing
from ftcluster.models.generation import generate
from ftcluster.models.integrity import Integrity, check_adapter, write_integrity
from ftcluster.models.output import Output, find_output
from ftcluster.models.targets import linear_layers, resolve_targets, sizes_of
from ftcluster.objectives.cross_entropy import head_losses

_MOMENTS = {"exp_avg": "first", "exp_avg_sq": "second"}


@dataclass
class _Trial:
    opening: TrialOpening
    adapter: AdapterSettings
    bank: Bank
    row: int
    sites: frozenset[int]
    steps: int = 0

    def segment(self, start: int, end: int, clock: tuple[int, int] | None) -> Segment:
        """Its tokens in a stream; without a clock there is no dropout."""
        return Segment(
            start,
            end,
            self.bank,
            self.row,
            scale=adapters.scale_of(self.adapter),
            sites=self.sites,
            dropout=self.adapter.dropout if clock else 0.0,
            clock=(self.opening.seed, *(clock or (0, 0))),
        )


@dataclass(frozen=True)
class _Losses:
    """Of one slot's documents: loss, weight and place of each token that carries loss, [N] each."""

    slot: int
    batch: Batch
    at_N: Tensor
    losses_N: Tensor
    weights_N: Tensor


@dataclass
class Packed:
    """A base whose linear layers were replaced, once.

    ``around_head``: within it the head's weights are there, also where bases are sharded.
    """

    base: Base
    sites: list[Site]
    output: Output
    route: Route
    around_head: Callable[[], AbstractContextManager[None]] = nullcontext
    banks: dict[int, Bank] = field(default_factory=dict)


class PackedEngine:
    """See ``ftcluster.contracts.ports.Engine`` for what each method promises."""

    lanes: Mapping[int, int] = MappingProxyType({})
    _told_plainly = False  # whether errors come as they are, also where several trials were in what failed

    def __init__(
        self, load: Callable[[], Base], precision: Precision, *, exact: bool = True, checkpointing: bool = False
    ) -> None:
        """``checkpointing``: keep each layer's input alone for the backward pass.

        ``exact=False``: one product for all trials wherever that can be, whose rounding depends on who is there.
        """
        self._load, self._precision = load, precision
        self._exact, self._checkpointing = exact, checkpointing
        self._made: Packed | None = None
        self._trials: dict[int, _Trial] = {}

    @property
    def base(self) -> Base:
        """The frozen base, loaded on first use."""
        return self._packed.base

    @property
    def _packed(self) -> Packed:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> Packed:
        base = self._load()
        check_isolation(base.model, base.device)
        sites, route = replace_layers(base)
        return Packed(base, sites, find_output(base.model), route)

    @property
    def memory(self) -> int:
        """Bytes of all adapters and their optimizer state."""
        return sum(bank.bytes for bank in self._packed.banks.values())

    # Trials ------------------------------------------------------------------------------------------------------

    @property
    def slots(self) -> list[int]:
        """Those that hold a trial."""
        return sorted(self._trials)

    def open(self, trial: TrialOpening) -> None:
        if trial.slot in self._trials or trial.slot < 0:
            raise ValueError(f"slot {trial.slot} is taken or negative")
        if trial.adapter is None:
            raise ValueError("a full fine-tune changes the base that packed trials share")
        rank = bucket_of(trial.adapter.rank)
        if rank not in self._packed.banks:
            self._packed.banks[rank] = self._bank(rank)
        made = self._trial(trial, trial.adapter, self._packed.banks[rank])
        drawn = adapters.initial_a(
            [(self._packed.sites[s].inputs, self._packed.sites[s].outputs) for s in sorted(made.sites)],
            trial.adapter.rank,
            trial.seed,
        )
        for site, values in zip(sorted(made.sites), drawn, strict=True):
            made.bank.read("master", made.row, site, trial.adapter.rank)[0].copy_(values)
        made.bank.refresh(made.row)

    def _trial(self, opening: TrialOpening, adapter: AdapterSettings, bank: Bank) -> _Trial:
        packed = self._packed
        wanted = set(resolve_targets(packed.base.model, adapter.targets))
        sites = frozenset(i for i, site in enumerate(packed.sites) if site.path.rpartition(".")[2] in wanted)
        made = _Trial(opening, adapter, bank, bank.take(), sites)
        self._trials[opening.slot] = made
        return made

    def _bank(self, rank: int) -> Bank:
        """An empty one, which takes next to no memory."""
        weights = self._precision.weights
        master = torch.float64 if weights is torch.float64 else torch.float32
        packed = self._packed
        return Bank(packed.sites, rank, master=master, compute=weights, device=packed.base.device)

    def cost(self, adapter: AdapterSettings) -> int:
        """Bytes that a trial with such an adapter would take, beside those of passes."""
        rank = bucket_of(adapter.rank)
        return (self._packed.banks.get(rank) or self._bank(rank)).growth

    def close(self, slot: int) -> None:
        trial = self._trials.pop(slot)
        trial.bank.give_back(trial.row)
        if trial.bank.empty:  # the next trials may be of other ranks
            del self._packed.banks[trial.bank.rank]

    # Passes ------------------------------------------------------------------------------------------------------

    def forward_backward(
        self, batch: Batch, normalisers: Mapping[int, float], clock: Mapping[int, tuple[int, int]]
    ) -> dict[int, LossSums]:
        sums: dict[int, LossSums] = {}
        totals: list[Tensor] = []
        with self._pass(batch, clock) as found:
            for each in found:
                total = (each.losses_N * each.weights_N).sum()
                if each.weights_N.numel():
                    totals.append(total / normalisers[each.slot])
                weight = float(each.weights_N.double().sum())
                sums[each.slot] = LossSums(float(total.detach()), weight, len(each.batch.tokens_T))
            if totals:
                undo = partial(self._forget_gradients, list(sums))
                with _shared("a pass", alone=self._told_plainly or len(sums) == 1, undo=undo):
                    torch.autograd.backward(totals)
        return sums

    def try_out(self, batch: Batch) -> None:
        slots = sorted(set(batch.slots))
        try:
            self.forward_backward(batch, dict.fromkeys(slots, float("inf")), dict.fromkeys(slots, (0, 0)))
        finally:
            self._forget_gradients(slots)

    def _forget_gradients(self, slots: Sequence[int]) -> None:
        for trial in map(self._trials.__getitem__, slots):
            trial.bank.clear_gradient(trial.row)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> list[LossSums]:
        sums: list[LossSums] = [LossSums()] * len(batch.lengths)
        with self._pass(batch, None) as found:
            for each in found:
                rows = [row for row, owner in enumerate(batch.slots) if owner == each.slot]
                added = document_sums(each.batch, each.at_N, each.losses_N, each.weights_N)
                for row, own in zip(rows, added, strict=True):
                    sums[row] = own
        return sums

    @contextmanager
    def _pass(self, batch: Batch, clock: Mapping[int, tuple[int, int]] | None) -> Iterator[list[_Losses]]:
        """Losses slot by slot; layers that are computed again in a backward pass must be so in here."""
        packed = self._packed
        mine = {slot: batch.select(slot) for slot in sorted(set(batch.slots), key=self._order)}
        segments, start = [], 0
        for slot, part in mine.items():
            end = start + len(part.tokens_T)
            trial = self._trial_in(slot)
            segments.append(trial.segment(start, end, clock[slot] if clock else None) if trial else Segment(start, end))
            start = end
        with self._routed(segments, exact=self._exact), attending_by_document(packed.base.model):
            with checkpointing(packed.base.model) if self._checkpointing and clock else nullcontext():
                hidden_TH = packed.output.hidden(*self._inputs(list(mine.values())))
            with packed.around_head():
                found = list(self._losses(mine, hidden_TH))
            yield found

    def _order(self, slot: int) -> tuple[int, int, int]:
        """Slots of a bank side by side, in the order of its rows."""
        trial = self._trial_in(slot)
        return (trial.bank.rank, trial.row, slot) if trial else (0, 0, slot)

    def _inputs(self, parts: Sequence[Batch]) -> tuple[Tensor, Tensor, tuple[Documents, ...]]:
        device = self._packed.base.device
        tokens_T = torch.cat([part.tokens_T for part in parts]).to(device)
        positions_T = torch.cat([part.positions_T for part in parts]).to(device)
        lengths = [part.lengths for part in parts]
        rows = lengths if self._exact else [tuple(length for each in lengths for length in each)]
        return tokens_T, positions_T, tuple(Documents.of(each, device) for each in rows)

    def _losses(self, mine: Mapping[int, Batch], hidden_TH: Tensor) -> Iterator[_Losses]:
        output, device = self._packed.output, hidden_TH.device
        places = [part.weights_T.nonzero().squeeze(1) for part in mine.values()]
        hidden = hidden_TH.split_with_sizes([len(part.tokens_T) for part in mine.values()])
        hidden_NH = [own[at_N.to(device)] for own, at_N in zip(hidden, places, strict=True)]
        targets_N = [part.targets_T[at_N].to(device) for part, at_N in zip(mine.values(), places, strict=True)]
        if self._exact:
            pairs = zip(hidden_NH, targets_N, strict=True)
            losses = [output.losses(own, targets, head_losses) for own, targets in pairs]
        else:
            together = output.losses(torch.cat(hidden_NH), torch.cat(targets_N), head_losses)
            losses = list(together.split_with_sizes([len(at_N) for at_N in places]))
        for (slot, part), at_N, losses_N in zip(mine.items(), places, losses, strict=True):
            yield _Losses(slot, part, at_N, losses_N, part.weights_T[at_N].to(losses_N))

    def generate(
        self, slot: int, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: Sequence[int] = ()
    ) -> list[list[int]]:
        trial = self._trial_in(slot)
        everything = torch.iinfo(torch.int64).max
        segment = trial.segment(0, everything, None) if trial else Segment(0, everything)
        with self._routed([segment], exact=True):
            return generate(self.base, prompts, max_new_tokens, stops=stops)

    def _trial_in(self, slot: int) -> _Trial | None:
        if slot not in self._trials and slot != BASE_SLOT:
            raise ValueError(f"slot {slot} holds no trial")
        return self._trials.get(slot)

    @contextmanager
    def _routed(self, segments: Sequence[Segment], *, exact: bool) -> Iterator[None]:
        route = self._packed.route
        route.now = Pass.of(segments, exact=exact)
        try:
            yield
        finally:
            route.now = Pass()

    def step(self, slot: int, lr: float) -> float:
        return self.step_many({slot: lr})[slot]

    def step_many(self, rates: Mapping[int, float]) -> dict[int, float]:
        norms: dict[int, float] = {}
        with _shared("a step", alone=self._told_plainly or len(rates) == 1):
            for bank in self._packed.banks.values():
                mine = {slot: trial for slot in rates if (trial := self._trials[slot]).bank is bank}
                updates: dict[int, Update] = {}
                for slot, trial in mine.items():
                    trial.steps += 1
                    updates[trial.row] = Update(trial.steps, rates[slot], trial.opening.optimizer)
                if updates:
                    found = bank.step(updates)
                    norms |= {slot: found[trial.row] for slot, trial in mine.items()}
        return norms

    # Files -------------------------------------------------------------------------------------------------------

    def export(self, slot: int, folder: Path) -> Integrity:
        """Write the adapter in PEFT's format.

        Raises:
            BadAdapter: the integrity gate refused what was written.
        """
        trial = self._trials[slot]
        tensors = {adapters.file_name(path): values for path, values in self._tensors(trial, "master").items()}
        adapters.write_adapter(self.base, trial.adapter, tensors, folder)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        integrity = check_adapter(folder, shapes=shapes, base_revision=self.base.revision)
        write_integrity(folder, integrity)
        return integrity

    def save(self, slot: int, folder: Path) -> None:
        trial = self._trials[slot]
        self.export(slot, folder)
        state = {
            f"{key}:{path}": values
            for key, table in _MOMENTS.items()
            for path, values in self._tensors(trial, table).items()
        }
        step = torch.tensor(float(trial.steps))
        state |= {f"step:{path}": step.clone() for path in self._tensors(trial, "master")} if trial.steps else {}
        save_file(state if trial.steps else {}, folder / OPTIMIZER)

    def load(self, slot: int, folder: Path) -> None:
        trial = self._trials[slot]
        check_base(self.base, folder)
        mine = {adapters.file_name(path): (path, values) for path, values in self._tensors(trial, "master").items()}
        saved = adapters.read_adapter(folder, {name: values.shape for name, (_, values) in mine.items()})
        self._fill(trial, "master", {path: saved[name] for name, (path, _) in mine.items()})
        state: dict[str, dict[str, Tensor]] = {"exp_avg": {}, "exp_avg_sq": {}, "step": {}}
        for name, values in load_file(folder / OPTIMIZER).items():
            key, _, path = name.partition(":")
            state[key][path] = values
        trial.steps = int(max((float(count) for count in state["step"].values()), default=0))
        trial.bank.clear_state(trial.row)
        for key, table in _MOMENTS.items():
            self._fill(trial, table, state[key])
        trial.bank.refresh(trial.row)

    def adapter(self, slot: int) -> dict[str, Tensor]:
        """The trial's A [rank, in] and B [out, rank] by parameter path, copied to the CPU."""
        return self._tensors(self._trials[slot], "master")

    def _tensors(self, trial: _Trial, table: str) -> dict[str, Tensor]:
        """Copies of a trial's numbers on the CPU, by parameter path."""
        found = {}
        for site in sorted(trial.sites):
            path = self._packed.sites[site].path
            a_RI, b_OR = trial.bank.read(table, trial.row, site, trial.adapter.rank)
            for letter, values in (("A", a_RI), ("B", b_OR)):
                found[f"{path}.lora_{letter}.weight"] = values.to("cpu", copy=True).contiguous()
        return found

    def _fill(self, trial: _Trial, table: str, tensors: Mapping[str, Tensor]) -> None:
        for site in sorted(trial.sites):
            path = self._packed.sites[site].path
            for letter, place in zip("AB", trial.bank.read(table, trial.row, site, trial.adapter.rank), strict=True):
                if (values := tensors.get(f"{path}.lora_{letter}.weight")) is not None:
                    place.copy_(values)


@contextmanager
def _shared(what: str, *, alone: bool, undo: Callable[[], None] | None = None) -> Iterator[None]:
    """Around what changes trials, and must not be tried again once it did so for some of them.

    Raises:
        StepUndone: memory ran out with several trials in it, and ``undo`` made them ready to begin their steps again.
        TrialError: it failed otherwise with several trials in it.
    """
    try:
        yield
    except Exception as error:
        if alone:
            raise
        if undo and is_shortage(error):
            let_go(error)
            undo()
            raise StepUndone(f"{what} of several trials ran out of memory: {error}") from None
        remedy = "lower cluster.trials_per_host or optim.micro_batch"
        raise TrialError(f"{what} of several trials failed half-way: {error}", remedy=remedy) from error


def replace_layers(base: Base) -> tuple[list[Site], Route]:
    """Put packed layers and activations in the places of the base's own; its numbers stay the same."""
    route = Route()
    sites: list[Site] = []
    for path, layer in list(linear_layers(base.model)):
        sites.append(Site(path, *sizes_of(layer)))
        _replace(base, path, PackedLinear(layer, len(sites) - 1, route))
    for path, activation in list(activations(base.model)):
        _replace(base, path, PackedActivation(activation, route))
    base.model.requires_grad_(False).eval()
    return sites, route


def _replace(base: Base, path: str, module: torch.nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(base.model.get_submodule(parent), name, module)
