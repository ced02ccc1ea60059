"""The training loop: steps from the newest checkpoint up to a given step, then a report.

    batches of a step -> forward_backward per micro-batch -> loss sums -> one optimizer step -> records
                                   every so often: evaluate -> checkpoint

A loop does not call its engine for micro-batches and updates but yields them as requests (``requests``), so that the
loops of several trials can be carried out together. All decisions are taken before it starts; nothing here reads a
config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ftcluster.contracts.batch import Batch, LossSums
from ftcluster.contracts.ports import Engine, Tracker
from ftcluster.data.prepared.batches import Loader
from ftcluster.engine.schedule import Schedule
from ftcluster.engine.shortage import StepUndone
from ftcluster.errors import Diverged
from ftcluster.training.requests import Answer, MicroBatch, Update, Work


@dataclass(frozen=True)
class Progress:
    """How far a trial is: all that a resumed loop needs to know."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # tokens read by training
    seconds: float = 0.0  # spent in training steps; of shared passes its share
    metrics: Mapping[str, float] | None = None  # newest held-out metrics
    measured: int = -1  # the step they were measured at
    tokens_per_s: float = 0.0  # of the newest step
    loss: float = math.nan  # training loss of the newest step


@dataclass(frozen=True)
class Parts:
    """What the loop works with."""

    engine: Engine
    slot: int
    loader: Loader
    schedule: Schedule
    tracker: Tracker
    evaluate: Callable[[], dict[str, float]]
    save: Callable[[Progress], None]
    observe: Callable[[Progress], None]
    stopping: Callable[[], bool]
    clock: Callable[[], float]
    evaluate_every: int
    save_every: int
    log_every: int


def train(parts: Parts, progress: Progress, until: int) -> Work[Progress]:
    """Train up to step ``until``, which is evaluated and saved too; returns early, saved, when asked to stop.

    Raises:
        Diverged: the loss, the gradient or a held-out metric is no longer finite; nothing is saved then.
    """
    due = progress.step >= until or (progress.step and progress.step % parts.evaluate_every == 0)
    if due and progress.measured != progress.step:
        progress = _measure(parts, progress)
        parts.save(progress)
    while progress.step < until:
        progress = yield from _step(parts, progress)
        parts.observe(progress)
        last, stopping = progress.step == until, parts.stopping()
        # Who is told to stop may have little time left; what is not measured now is when it goes on.
        if last or (progress.step % parts.evaluate_every == 0 and not stopping):
            progress = _measure(parts, progress)
        if last or stopping or progress.step % parts.save_every == 0:
            parts.save(progress)
        if stopping:
            break
    return progress


def _measure(parts: Parts, progress: Progress) -> Progress:
    metrics = parts.evaluate()
    if broken := [f"{name} became {value}" for name, value in metrics.items() if not math.isfinite(value)]:
        raise _diverged(", ".join(broken), progress.step)
    parts.tracker.metrics(metrics, progress.step)
    return replace(progress, metrics=metrics, measured=progress.step)


def _step(parts: Parts, progress: Progress) -> Work[Progress]:
    started = parts.clock()
    step, slot = progress.step, parts.slot
    batches = parts.loader.step_batches(step)
    normaliser = max(sum(batch.weight(slot) for batch in batches), 1e-9)
    seconds = parts.clock() - started
    while True:
        try:
            sums, spent = yield from _passes(parts, batches, normaliser, step)
            break
        except StepUndone:  # by what another trial wanted too; the passes that follow are smaller
            continue
    seconds += spent
    if not math.isfinite(sums.loss):
        raise _diverged(f"the loss became {sums.loss}", step + 1)
    lr = parts.schedule.lr(step)
    answer: Answer = yield Update(parts.engine, slot, lr)
    norm, seconds = answer.value, seconds + answer.seconds
    if not math.isfinite(norm):
        raise _diverged(f"the gradient norm became {norm}", step + 1)
    progress = replace(
        progress,
        step=step + 1,
        tokens=progress.tokens + sums.tokens,
        seconds=progress.seconds + seconds,
        tokens_per_s=sums.tokens / max(seconds, 1e-9),
        loss=sums.mean,
    )
    if progress.step % parts.log_every == 0:
        values = {
            "train/loss": sums.mean,
            "train/lr": lr,
            "train/grad_norm": norm,
            "train/tokens_per_s": progress.tokens_per_s,
            "train/epoch": progress.step / parts.loader.steps_per_epoch,
        }
        parts.tracker.metrics(values, progress.step)
    return progress


def _passes(parts: Parts, batches: Sequence[Batch], normaliser: float, step: int) -> Work[tuple[LossSums, float]]:
    """All micro-batches of a step: what they add up to, and the seconds they took."""
    sums, seconds = LossSums(), 0.0
    for micro, batch in enumerate(batches):
        answer: Answer = yield MicroBatch(parts.engine, parts.slot, batch, normaliser, (step, micro))
        sums, seconds = sums + answer.value, seconds + answer.seconds
    return sums, seconds


def _diverged(what: str, step: int) -> Diverged:
    return Diverged(f"{what} at step {step}", remedy="lower optim.lr, or check the data")
