"""One run from its folder's newest checkpoint to a report: opened on a bench, trained, saved, closed.

This is where config fields become plain arguments of the parts below. The same session serves a training
started by hand, and each stretch of a sweep's trial between two rungs.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml

from ftcluster.cluster.telemetry import gpu_metrics
from ftcluster.config.compose import to_dict
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.folder import RunFolder, write_atomically
from ftcluster.contracts.ports import OptimizerSettings, Tracker, TrialOpening
from ftcluster.contracts.trial import TrialReport
from ftcluster.data.audit import judge
from ftcluster.data.audit.page import Page, write_page
from ftcluster.data.prepared.batches import Efficiency, Loader
from ftcluster.data.prepared.folder import HeldOut, PreparedData
from ftcluster.data.prepared.report import Report
from ftcluster.engine import checkpoint
from ftcluster.engine.memory import watch_memory
from ftcluster.engine.precision import choose_device
from ftcluster.engine.schedule import SHAPES, Schedule
from ftcluster.engine.sharded.engine import ShardedEngine
from ftcluster.errors import StoreError, UsageError
from ftcluster.evaluation.answers import answer, exact_match
from ftcluster.evaluation.likelihood import document_losses, loss_metrics
from ftcluster.tracking.redaction import hide_url_users
from ftcluster.tracking.system import over_ranks, system_metrics
from ftcluster.training.bench import Bench, adapter_settings, base_revision, opened, tokenizer_of
from ftcluster.training.loop import Parts, Progress, train
from ftcluster.training.requests import Work, alone
from ftcluster.units import Duration

LOOK = 10.0  # seconds between looks at the hardware while a run trains
PROGRESS = "progress.json"


@dataclass(frozen=True)
class Plan:
    """Lengths of a run in optimizer steps, worked out from its config and data."""

    total: int
    evaluate_every: int
    save_every: int
    steps_per_epoch: int
    tokens_per_step: float
    efficiency: Efficiency  # of micro-batches: real tokens per slot


def loader_of(config: RunConfig, data: PreparedData, slot: int = 0) -> Loader:
    """The training batches of a config."""
    optim = config.optim
    return Loader(
        data.train,
        optim.batch_size,
        optim.micro_batch,
        config.seed,
        slot,
        micro_tokens=optim.micro_tokens,
        epoch=data.epoch,
    )


def total_steps(config: RunConfig, data: PreparedData) -> int:
    """Optimizer steps of a whole training."""
    return _steps(config.optim.duration, loader_of(config, data))


def plan(config: RunConfig, data: PreparedData) -> Plan:
    """Turn the config's durations into steps."""
    loader = loader_of(config, data)
    every = _steps(config.evaluation.every, loader)
    return Plan(
        total=_steps(config.optim.duration, loader),
        evaluate_every=every,
        save_every=_steps(config.engine.checkpoint_every, loader) if config.engine.checkpoint_every else every,
        steps_per_epoch=loader.steps_per_epoch,
        tokens_per_step=loader.tokens_per_step,
        efficiency=loader.efficiency(),
    )


def _steps(duration: str, loader: Loader) -> int:
    return Duration.parse(duration).steps(
        steps_per_epoch=loader.steps_per_epoch, tokens_per_step=loader.tokens_per_step
    )


def training_facts(plan: Plan, report: Report) -> dict[str, str]:
    """What a training on prepared data would be like, for people."""
    packed, padded = plan.efficiency.packed, f"{100 * plan.efficiency.padded:.1f} %"
    real = "every slot holds a token" if packed is None else f"{100 * packed:.1f} % of the slots hold a token"
    return {
        "tokens of an epoch": f"{report.epoch.tokens:,} in {report.epoch.documents:,} documents",
        "steps": f"{plan.total:,}, {plan.steps_per_epoch:,} an epoch",
        "tokens of a step": f"{plan.tokens_per_step:,.0f}",
        "packing": f"{real}; with padding {padded} would",
    }


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
        self._data, self._bench = opened(prepared), bench
        self._warn, self._named_slow = warn, False
        self._observe, self._looked = observe, time.monotonic()
        warm = bench.holds(config)
        self._engine = bench.engine(config)
        self._commits = checkpoint.Commits(folder.checkpoints)
        self._watch = None if self._engine.slots else watch_memory(choose_device(config.engine.device), warm=warm)
        self._slot = bench.slot()
        self.plan = plan(config, self._data)
        self._write_start(prepared)
        self._engine.open(_opening(config, self._slot))
        try:
            self.progress = self._resume(warn)
        except BaseException:
            self._engine.close(self._slot)  # a host goes on with other trials
            raise
        self._began = self.progress.step
        self._loader = loader_of(config, self._data, self._slot)
        self._parts = Parts(
            engine=self._engine,
            slot=self._slot,
            loader=self._loader,
            schedule=_schedule(config, self.plan.total),
            tracker=tracker,
            evaluate=self._measure,
            save=self._save,
            observe=self._note,
            stopping=stopping,
            clock=clock,
            evaluate_every=self.plan.evaluate_every,
            save_every=self.plan.save_every,
            log_every=config.tracking.log_every,
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with suppress(StoreError):  # something else went wrong, or it would have been waited for
                self._commits.wait()
        finally:
            self._engine.close(self._slot)

    def work(self, until: int | None = None) -> Work[TrialReport]:
        """Train up to step ``until`` (the whole plan by default), write the result, and report.

        Raises:
            Diverged: see the loop.
            torch.OutOfMemoryError: a pass did not fit; other engines and devices raise other errors for it.
            BadAdapter: the integrity gate refused the result.
            StoreError: something could not be written.
        """
        goal = min(until or self.plan.total, self.plan.total)
        self._try_out(goal)
        self.progress = yield from train(self._parts, self.progress, goal)
        self._commits.wait()
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

    def run(self, until: int | None = None) -> TrialReport:
        """``work``, carried out alone."""
        return alone(self.work(until), self._parts.clock)

    def sizes(self, until: int | None = None) -> tuple[int, int]:
        """Tokens of the largest micro-batch up to a step, and of the longest row."""
        return len(self._loader.widest(self.progress.step, until or self.plan.total).tokens_T), self._loader.longest

    @property
    def peak(self) -> int:
        """The most bytes since it was opened; 0 where that cannot be told, or other trials had a part in it.

        Nor is it told of steps without a micro-batch as large as that which memory is foretold for.
        """
        alone = self._watch is not None and self._bench.trials == self._slot
        measured = self._watch() if self._watch and alone else 0
        return measured if measured and self._loader.has_largest(self._began, self.progress.step) else 0

    def _try_out(self, goal: int) -> None:
        """Find out before the first step whether the largest micro-batch fits.

        Not beside other trials on a CPU, whose admission has measured passes already, and once for all trials that are
        alike: one pass of a host.
        """
        beside = len(self._engine.slots) > 1 and choose_device(self._config.engine.device).type == "cpu"
        known = self._bench.passed(self._config)
        if self.progress.step >= goal or beside or known >= self._loader.most_tokens:
            return
        widest = self._loader.widest(self.progress.step, goal)
        tokens = len(widest.tokens_T)
        if tokens > known:
            self._engine.try_out(widest)
            self._bench.note_pass(self._config, tokens)

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
            self._tracker.artifact(self._write_data_page(), "data")
        self._folder.write_facts(
            {
                "prepared": prepared,
                "base": self._config.model.path,
                "total_steps": self.plan.total,
                "steps_per_epoch": self.plan.steps_per_epoch,
            }
        )

    def _write_data_page(self) -> Path:
        """The report on the data, for people; report.json is the same for programs."""
        data, report = self._config.data, self._data.report
        page = Page.of(data, report, training_facts(self.plan, report))
        return write_page(self._folder.data_page, report, judge(report, data.warn, data.refuse), page)

    def _resume(self, warn: Callable[[str], None]) -> Progress:
        newest = checkpoint.newest(self._folder.checkpoints, warn)
        if newest is None:
            return Progress()
        self._engine.load(self._slot, newest)
        return Progress(**json.loads((newest / PROGRESS).read_text()))

    @property
    def _tokenizer(self) -> Any:
        """With the template its data was written with, so that the result is asked as it was taught."""
        model = self._config.model
        return tokenizer_of(model.path, model.trust_remote_code, self._data.chat_template)

    @cached_property
    def _questions(self) -> list[HeldOut]:
        asked = [q for q in self._data.held_out("validation") if q.messages]
        return asked[: self._config.evaluation.generate]

    def _note(self, progress: Progress) -> None:
        """After a step. At a checkpoint, where hardware is looked at too, it has been waiting or evaluating."""
        if time.monotonic() - self._looked >= LOOK:
            self._look(progress)
        self._observe(progress)

    def _look(self, progress: Progress) -> None:
        self._tracker.metrics(self._telemetry(), progress.step)
        self._looked = time.monotonic()

    def _save(self, progress: Progress) -> None:
        self._look(progress)

        def write(folder: Path) -> None:
            self._engine.save(self._slot, folder)
            (folder / PROGRESS).write_text(json.dumps(asdict(progress)) + "\n")
            shutil.copy(self._folder.config, folder)

        self._tracker.flush()
        self._commits.begin(progress.step, write, self._collect)

    def _collect(self) -> None:
        parent = self._folder.checkpoints
        checkpoint.collect(parent, keep=self._config.engine.keep_checkpoints, best=best_checkpoint(parent))

    def _telemetry(self) -> dict[str, float]:
        measure = partial(system_metrics, partial(gpu_metrics, self._config.engine.device))
        engine = self._engine
        if not isinstance(engine, ShardedEngine):
            return measure()
        return {**over_ranks(engine.telemetry(measure)), **self._pace(engine)}

    def _pace(self, engine: ShardedEngine) -> dict[str, float]:
        """How much longer the slowest rank works than the others; one that holds them up is named once."""
        slowest = engine.slowest()
        if slowest is None:
            return {}
        if slowest.slow and not self._named_slow:
            self._named_slow = True
            self._warn(str(slowest))
        return {"system/slowest_rank_ratio": slowest.ratio}

    def _measure(self) -> dict[str, float]:
        settings, held_out = self._config.evaluation, self._data.validation
        rows = range(min(settings.max_rows or len(held_out), len(held_out)))
        metrics = loss_metrics(document_losses(self._engine, self._slot, held_out, rows))
        if settings.generate and (questions := self._questions):
            answers = answer(self._engine, self._slot, self._tokenizer, questions, settings.max_new_tokens)
            metrics["eval/exact_match"] = exact_match([a.text for a in answers], [q.reference for q in questions])
            metrics["eval/finished"] = sum(a.finished for a in answers) / len(answers)
        return metrics

    def _export(self) -> None:
        final = self._folder.adapter if self._config.adapter.kind == "lora" else self._folder.model
        aside = final.with_name(f".writing-{final.name}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self._engine.export(self._slot, aside)
        self._tokenizer.save_pretrained(aside)
        checkpoint.publish(aside, final)


def best_checkpoint(parent: Path) -> Path | None:
    """The one with the lowest held-out loss, of those that were measured when they were saved; the first of equals."""
    losses: list[tuple[float, Path]] = []
    for folder in parent.glob("step-*"):
        with suppress(OSError, ValueError, TypeError):  # a damaged one; resuming sees to it
            told = Progress(**json.loads((folder / PROGRESS).read_text()))
            if told.measured == told.step and told.metrics:
                losses.append((told.metrics["eval/loss"], folder))
    return min(losses, default=(0.0, None))[1]


def _opening(config: RunConfig, slot: int) -> TrialOpening:
    optim = config.optim
    settings = OptimizerSettings(optim.weight_decay, optim.beta1, optim.beta2, optim.eps, optim.clip, optim.lora_plus)
    if config.adapter.kind == "none":
        return TrialOpening(slot, config.seed, settings)
    return TrialOpening(slot, config.seed, settings, adapter_settings(config))


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
    tracker.tags({**tags, "ftcluster.base_revision": base_revision(config.model.path, config.model.revision)})
