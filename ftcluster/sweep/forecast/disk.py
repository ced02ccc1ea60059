"""How much disk a sweep takes: at most at any time, and in the end.

A trial that has not ended keeps its newest checkpoints and the best one; one that was pruned or has finished keeps its
result and its records alone. So the most there can be at a time is what there would be if every trial were as far as
its rule lets it come, and none had ended yet. For AdamW a checkpoint holds a master and two moments of every number
that is trained; a test holds what is said here against what a training writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcluster.cluster.machine import free_disk
from ftcluster.config.compose import resolve_home
from ftcluster.config.environment import tracking_uri
from ftcluster.config.schema import RunConfig
from ftcluster.errors import StoreError
from ftcluster.sweep.bundles import swept_keys
from ftcluster.sweep.forecast.imagined import Imagined, corners, imagine
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.survivors import reaching
from ftcluster.training.bench import size_of
from ftcluster.units import format_bytes

_FEW = 20_000  # bytes of a checkpoint's small files
# Measured: bytes of a trial's page on its data and of its config, and of what is recorded of a step.
_RECORDS, _STEP = 30_000, 250
_DELIVERED, _STEP_DELIVERED = 30_000, 600  # likewise in an MLflow whose files lie below the same home
_REPORT = 2_100_000  # bytes of a sweep's report
_MATTERS = ("adapter.", "model.", "engine.")  # to the size of files
_FIRST = 32
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


@dataclass(frozen=True)
class Disk:
    """Bytes below the home; ``folder``: in the end in the sweep's own folder, without its report."""

    at_most: int
    in_the_end: int
    folder: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of one trial's files."""

    checkpoint: int
    result: int
    early: bool  # whether it has a result at every rung, and not at its end only


def disk_of(plan: SweepPlan, trials: Sequence[Imagined]) -> Disk:
    """Of a sweep of such trials. The largest are taken to come furthest."""
    if not trials:
        return Disk(0, 0, 0)
    known: dict[str, Sizes] = {}
    for trial in trials:
        known.setdefault(_key(trial.config), sizes_of(trial.config))
    each = [known[_key(trials[number % len(trials)].config)] for number in range(plan.trials)]
    each.sort(key=lambda sizes: (sizes.checkpoint, sizes.result), reverse=True)
    reached = reaching(plan.spec, plan.trials, len(plan.rungs))
    last = len(plan.rungs) - 1
    embedded = not tracking_uri(plan.base.tracking.uri)
    kept = folder = delivered = 0
    for number, sizes in enumerate(each):
        rung = max((rung for rung, count in enumerate(reached) if number < count), default=0)
        points = plan.rungs[rung] // plan.base.tracking.log_every
        kept += (_kept(plan, rung) + 1) * sizes.checkpoint  # one more while it is being written
        folder += _RECORDS + _STEP * points + (sizes.result if sizes.early or rung == last else 0)
        delivered += _DELIVERED + _STEP_DELIVERED * points + (sizes.result if sizes.early else 0)
    written = folder + _REPORT + (delivered + _REPORT if embedded else 0)
    return Disk(kept + written, written, folder)


def disk_at_most(plan: SweepPlan) -> Disk:
    """Of a sweep, quickly: of its trials only those are looked at whose files differ in size."""
    if not any(key.startswith(_MATTERS) for key in swept_keys(plan.spec)):
        return disk_of(plan, imagine(plan, 1))
    return disk_of(plan, [*imagine(plan, _FIRST), *corners(plan)])


def refuse_full_disk(plan: SweepPlan, disk: Disk) -> None:
    """Before anything is started.

    Raises:
        StoreError: the sweep could fill what is free where its home is.
    """
    home = resolve_home(plan.base)
    if disk.at_most > (free := free_disk(home)):
        raise StoreError(
            f"the sweep can take {format_bytes(disk.at_most)} at a time, and {format_bytes(free)} are free",
            where=str(home),
            remedy="free space, name another --home, or keep less: engine.keep_checkpoints=1, a smaller budget.trials, "
            "a pruner",
        )


def _kept(plan: SweepPlan, rung: int) -> int:
    """Checkpoints of a trial at a rung: of those it has saved by then the newest, and the best."""
    every, until = plan.steps.save_every, plan.rungs[: rung + 1]
    saved = until[-1] // every + sum(step % every > 0 for step in until)
    return min(max(plan.base.engine.keep_checkpoints, 1) + 1, saved)


def _key(config: RunConfig) -> str:
    return repr((config.model.path, config.adapter, config.engine.precision))


def sizes_of(config: RunConfig) -> Sizes:
    """What a trial writes, by arithmetic."""
    size, width = size_of(config), 8 if config.engine.precision == "fp64" else 4
    adapter = config.adapter.kind != "none"
    checkpoint = 3 * width * size.trained + _FEW
    result = width * (size.trained if adapter else size.total) + _beside_weights(Path(config.model.path))
    return Sizes(checkpoint, result, adapter)


def _beside_weights(folder: Path) -> int:
    """Bytes of a model's tokenizer and configs, which every result has too."""
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix not in _WEIGHTS]
    return sum(path.stat().st_size for path in files)
