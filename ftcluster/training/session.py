"""One run from its folder's newest checkpoint to a report: opened on a bench, trained, saved, closed.

This is where config fields become plain arguments of the parts below. The same session serves a training
started by hand, and each stretch of a sweep's trial between two rungs.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ftcluster.config.compose import to_dict
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.folder import RunFolder, write_atomically
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, Tracker, TrialOpening
from ftcluster.contracts.trial import TrialReport
from ftcluster.data.batches import Loader
from ftcluster.data.folder import HeldOut, PreparedData
from ftcluster.engine import checkpoint
from ftcluster.engine.schedule import SHAPES, Schedule
from ftcluster.errors import UsageError
from ftcluster.evaluation.answers import answer, exact_match
from ftcluster.evaluation.likelihood import document_losses, loss_metrics
from ftcluster.tracking.redaction import hide_url_users
from ftcluster.tracking.system import system_metrics
from ftcluster.training.bench import Bench, opened, tokenizer_of
from ftcluster.training.loop import Parts, Progress, train
from ftcluster.units import Duration

PROGRESS = "progress.json"


@dataclass(frozen=True)
class Plan:
    """Lengths of a run in optimizer steps, worked out from its config and data."""

    total: int
    evaluate_every: int
    save_every: int
    steps_per_epoch: int
    tokens_per_step: float


def plan(config: RunConfig, data: PreparedData) -> Plan:
    """Turn the config's durations into steps."""
    loader = Loader(data.train, config.optim.batch_size, config.optim.micro_batch, config.seed)

    def steps(text: str) -> int:
        return Duration.parse(text).steps(
            steps_per_epoch=loader.steps_per_epoch, tokens_per_step=loader.tokens_per_step
        )

    every = steps(config.evaluation.every)
    return Plan(
        total=steps(config.optim.duration),
        evaluate_every=every,
        save_every=steps(config.engine.checkpoint_every) if config.engine.checkpoint_every else every,
        steps_per_epoch=loader.steps_per_epoch,
        tokens_per_step=loader.tokens_per_step,
    )


class Session:
    """A run that is open on an engine; use as a context manager."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        prepared: str,
        bench: Bench,
        tracker: Tracker,
        *,
        observe: Callable[[Progress], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
        warn: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._config, self._folder, self._tracker = config, folder, tracker
        self._data = opened(prepared)
        self._engine = bench.engine(config)
        self._slot = bench.slot()
        self.plan = plan(config, self._data)
        self._write_start(prepared)
        self._engine.open(_opening(config, self._slot))
        try:
            self.progress = self._resume(warn)
        except BaseException:
            self._engine.close(self._slot)  # a host goes on with other trials
            raise
        self._parts = Parts(
            engine=self._engine,
            slot=self._slot,
            loader=Loader(self._data.train, config.optim.batch_size, config.optim.micro_batch, config.seed, self._slot),
            schedule=_schedule(config, self.plan.total),
            tracker=tracker,
            evaluate=self._measure,
            save=self._save,
            observe=observe,
            stopping=stopping,
            clock=clock,
            evaluate_every=self.plan.evaluate_every,
            save_every=self.plan.save_every,
            log_every=config.tracking.log_every,
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close(self._slot)

    def run(self, until: int | None = None) -> TrialReport:
        """Train up to step ``until`` (the whole plan by default), write the result, and report.

        Raises:
            Diverged: see the loop.
            BadAdapter: the integrity gate refused the result.
            StoreError: something could not be written.
        """
        goal = min(until or self.plan.total, self.plan.total)
        self.progress = train(self._parts, self.progress, goal)
        finished = self.progress.step >= self.plan.total
        if self.progress.step >= goal and (finished or self._config.adapter.kind == "lora"):
            self._export()
        self._tracker.flush()
        return TrialReport(
            name=self._config.name,
            step=self.progress.step,
            metrics=dict(self.progress.metrics or {}),
            tokens=self.progress.tokens,
            seconds=self.progress.seconds,
        )

    def _write_start(self, prepared: str) -> None:
        self._folder.path.mkdir(parents=True, exist_ok=True)
        known = self._folder.read_facts().get("prepared", prepared)
        if Path(known).name != Path(prepared).name and any(self._folder.checkpoints.glob("step-*")):
            raise UsageError(
                "the data, its settings or the tokenizer changed since this run started",
                where=str(self._folder.path),
                remedy="start a new run, or put back what was changed and resume",
            )
        write_atomically(self._folder.config, _readable(self._config))
        if not self._folder.facts.exists():  # before they are: a kill in between records twice, which is harmless
            self._tracker.artifact(self._folder.config)
            self._tracker.artifact(Path(prepared) / "report.json", "data")
        self._folder.write_facts(
            {
                "prepared": prepared,
                "base": self._config.model.path,
                "total_steps": self.plan.total,
                "steps_per_epoch": self.plan.steps_per_epoch,
            }
        )

    def _resume(self, warn: Callable[[str], None]) -> Progress:
        newest = checkpoint.newest(self._folder.checkpoints, warn)
        if newest is None:
            return Progress()
        self._engine.load(self._slot, newest)
        return Progress(**json.loads((newest / PROGRESS).read_text()))

    @cached_property
    def _questions(self) -> list[HeldOut]:
        asked = [q for q in self._data.held_out("validation") if q.messages]
        return asked[: self._config.evaluation.generate]

    def _save(self, progress: Progress) -> None:
        self._tracker.metrics(system_metrics(), progress.step)

        def write(folder: Path) -> None:
            self._engine.save(self._slot, folder)
            (folder / PROGRESS).write_text(json.dumps(asdict(progress)) + "\n")
            shutil.copy(self._folder.config, folder)

        self._tracker.flush()
        checkpoint.commit(self._folder.checkpoints, progress.step, write)
        checkpoint.collect(self._folder.checkpoints, keep=self._config.engine.keep_checkpoints)

    def _measure(self) -> dict[str, float]:
        settings, held_out = self._config.evaluation, self._data.validation
        rows = range(min(settings.max_rows or len(held_out), len(held_out)))
        metrics = loss_metrics(document_losses(self._engine, self._slot, held_out, rows))
        if settings.generate and (questions := self._questions):
            tokenizer = tokenizer_of(self._config.model.path, self._config.model.trust_remote_code)
            prompts = [[asdict(message) for message in q.messages] for q in questions]
            answers = answer(self._engine, self._slot, tokenizer, prompts, settings.max_new_tokens)
            metrics["eval/exact_match"] = exact_match([a.text for a in answers], [q.reference for q in questions])
            metrics["eval/finished"] = sum(a.finished for a in answers) / len(answers)
        return metrics

    def _export(self) -> None:
        final = self._folder.adapter if self._config.adapter.kind == "lora" else self._folder.model
        aside = final.with_name(f".writing-{final.name}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self._engine.export(self._slot, aside)
        tokenizer = tokenizer_of(self._config.model.path, self._config.model.trust_remote_code)
        tokenizer.save_pretrained(aside)
        checkpoint.publish(aside, final)


def _opening(config: RunConfig, slot: int) -> TrialOpening:
    optim, adapter = config.optim, config.adapter
    settings = OptimizerSettings(optim.weight_decay, optim.beta1, optim.beta2, optim.eps, optim.clip)
    if adapter.kind == "none":
        return TrialOpening(slot, config.seed, settings)
    lora = AdapterSettings(adapter.rank, adapter.alpha, adapter.dropout, tuple(adapter.targets), adapter.rslora)
    return TrialOpening(slot, config.seed, settings, lora)


def _schedule(config: RunConfig, total: int) -> Schedule:
    optim = config.optim
    shape = next(s for s in SHAPES if s == optim.schedule)
    return Schedule(optim.lr, total, round(optim.warmup * total), shape, optim.final_lr)


def _readable(config: RunConfig) -> str:
    """The config as YAML for people and for MLflow, without the user and password an address may carry."""
    plain = to_dict(config)
    plain["tracking"]["uri"] = hide_url_users(config.tracking.uri)
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def start_records(tracker: Tracker, config: RunConfig, tags: dict[str, str]) -> None:
    """What every run tells its tracker once: all settings, and where they came from."""
    settings: dict[str, Any] = to_dict(config)
    del settings["name"], settings["home"]  # where and who, not how: they would be columns of every comparison
    tracker.params(settings)
    tracker.tags(tags)
