"""Which trials do not fit their GPUs, as far as memory can be foretold, and what is done about it.

What a training takes is predicted as everywhere else (``training.planning``), for the rows it has; a trial is too large
where the prediction exceeds the whole device, as when a training starts. ``too_large`` of the sweep says what follows:

    adapt     smaller passes over the same batch, as after an out-of-memory; what fits in none is cut
    cut       never proposed, as what breaks a constraint
    refuse    the sweep does not start

Both are written down as expressions over config keys, which become part of the sweep: one that is resumed, on whatever
cluster, proposes the same trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ftcluster.cluster.inventory import Gpu
from ftcluster.cluster.own_gpus import suits
from ftcluster.cluster.placement import Resources
from ftcluster.cluster.witnesses import Witnesses
from ftcluster.config.catalog import flat
from ftcluster.config.compose import resolve_home
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.trial import NAMED
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.errors import ConfigError
from ftcluster.sweep.bundles import swept_keys
from ftcluster.sweep.forecast.imagined import Imagined, Kind, Lengths, corners, imagine, matters
from ftcluster.sweep.plan import Fitted, SweepPlan
from ftcluster.sweep.study import cut_share
from ftcluster.training.fitting import in_words, smaller
from ftcluster.training.memory_record import calibration
from ftcluster.training.planning import kind_of, predict
from ftcluster.training.session import loader_of
from ftcluster.units import format_bytes

_LIMIT = "cluster.memory_gib"
MOST = 64  # kinds of trials that are looked at: each takes up to a second
_TRIALS = 128  # whose kinds these are, at most, beside the corners of the space


@dataclass(frozen=True)
class Room:
    """Bytes that a trial may take of each device, and whose they are; 0: nobody knows, so everything fits."""

    bytes: int = 0
    named: str = ""
    on_gpu: bool = False


@dataclass(frozen=True)
class Fit:
    """Bytes that trials of a kind take; 0 where that cannot be told. ``words`` make it fit, where anything does."""

    need: int
    fits: bool
    words: tuple[str, ...] = ()
    need_then: int = 0


@dataclass(frozen=True)
class Misfit:
    """Trials that are too large, by the values that make them so, and what becomes of them."""

    values: Mapping[str, Any]
    reason: str
    words: tuple[str, ...] = ()  # what makes them fit; empty: they are cut
    named: str = ""  # a trial that somebody named

    @property
    def condition(self) -> str:
        """An expression that holds for these trials."""
        return " and ".join(map(_condition, self.values.items())) or "true"

    @property
    def what(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.values.items()) or "every trial"

    def __str__(self) -> str:
        return f"{self.what} {self.reason}: {f'computed with {chr(32).join(self.words)}' if self.words else 'left out'}"


def _condition(item: tuple[str, Any]) -> str:
    key, value = item
    if key == "adapter.dropout":
        return f"{key} > 0" if value else f"{key} == 0"
    return f"{key} == {str(value).lower() if isinstance(value, bool) else repr(value)}"


def room_of(config: RunConfig, resources: Resources, cards: Sequence[Gpu]) -> Room:
    """What trials may take of the smallest of the GPUs that they may get, or what the config allows them."""
    limit, on_gpu = round(config.cluster.memory_gib * 2**30), resources.gpus > 0
    sizes = {card.memory_total: card.name for card in cards if card.memory_total} if on_gpu else {}
    if not sizes:
        return Room(limit, _LIMIT, on_gpu)
    size = round(min(sizes) * min(1.0, resources.gpus))
    return Room(limit, _LIMIT, on_gpu) if 0 < limit < size else Room(size, sizes[min(sizes)], on_gpu)


def cards_of(resources: Resources) -> list[Gpu]:
    """The GPUs of the cluster that a host may get."""
    if not resources.gpus:
        return []
    with Witnesses() as witnesses:
        nodes = witnesses.nodes()
    return [gpu for node in nodes if node.inventory for gpu in node.inventory.gpus.gpus if suits(gpu, resources)]


def fit(config: RunConfig, data: PreparedData, room: Room) -> Fit:
    """Whether trials like this one fit, or would with smaller passes."""
    need = _need(config, data, room)
    if not room.bytes or need <= room.bytes:
        return Fit(need, fits=True)
    made = _smaller(config, data)
    while made is not None:
        if 0 < (then := _need(made, data, room)) <= room.bytes:
            return Fit(need, False, (in_words(made),), then)
        made = _smaller(made, data)
    return Fit(need, fits=False)


def _need(config: RunConfig, data: PreparedData, room: Room) -> int:
    if not room.on_gpu:
        config = replace(config, engine=replace(config.engine, device="cpu"))
    loader = loader_of(config, data)
    widest = len(loader.widest(0, loader.steps_per_epoch).tokens_T)
    try:
        factor = calibration(resolve_home(config), kind_of(config)).factor
        return round(predict(config, widest, loader.longest) * factor)
    except Exception:  # whatever a model's own code does with tensors that have no numbers
        return 0


def _smaller(config: RunConfig, data: PreparedData) -> RunConfig | None:
    loader = loader_of(config, data)
    return smaller(config, len(loader.widest(0, loader.steps_per_epoch).tokens_T), loader.longest)


def fits_of(trials: Iterable[Imagined], lengths: Lengths, room: Room) -> dict[Kind, tuple[Imagined, Fit]]:
    """Each kind with a trial of it, the first ``MOST`` of them."""
    found: dict[Kind, tuple[Imagined, Fit]] = {}
    for trial in trials:
        if trial.kind not in found and len(found) < MOST:
            found[trial.kind] = trial, fit(trial.config, lengths.data(trial.config), room)
    return found


def misfits(plan: SweepPlan, found: Mapping[Kind, tuple[Imagined, Fit]], room: Room) -> list[Misfit]:
    """Those that are too large, and what would become of them."""
    keys = [key for key in sorted(swept_keys(plan.spec)) if matters(key)]
    told: dict[str, Misfit] = {}
    for trial, each in found.values():
        if not each.fits:
            values = flat(trial.config)
            has = "has" if room.on_gpu and room.named != _LIMIT else "allows"
            reason = f"takes {format_bytes(each.need)}, and {room.named} {has} {format_bytes(room.bytes)}"
            words = each.words if plan.spec.too_large == "adapt" else ()
            named = str(trial.overrides.get(NAMED, ""))
            misfit = Misfit({key: values[key] for key in keys}, reason, words, named)
            told.setdefault(misfit.condition, misfit)
    return list(told.values())


def fitted(plan: SweepPlan, wrong: Sequence[Misfit]) -> SweepPlan:
    """The plan without what is too large, or with smaller passes for it.

    Raises:
        ConfigError: the sweep refuses it, somebody named it, or nothing would be left.
    """
    refused = [misfit for misfit in wrong if plan.spec.too_large == "refuse" or (misfit.named and not misfit.words)]
    if refused:
        remedy = "too_large=adapt computes them in smaller passes, too_large=cut leaves them out"
        raise ConfigError([f"{misfit.what} {misfit.reason}." for misfit in refused], where="space", remedy=remedy)
    cut = [misfit for misfit in wrong if not misfit.words]
    adapted = tuple((misfit.condition, misfit.words) for misfit in wrong if misfit.words)
    made = plan.with_fitted(Fitted(tuple(f"not ({misfit.condition})" for misfit in cut), adapted)) if wrong else plan
    if cut and (not made.trials or cut_share(made.space) == 1):
        remedy = "ftcluster plan tells what a training takes, and what would do"
        raise ConfigError([f"{misfit.what} {misfit.reason}." for misfit in cut], where="space", remedy=remedy)
    return made


def looked_at(plan: SweepPlan) -> list[Imagined]:
    """Trials that between them have every kind there may be, as far as a sample shows."""
    return [*imagine(plan, _TRIALS), *corners(plan)]
