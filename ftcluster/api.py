"""What notebooks and scripts use: run sweeps and trainings, and have what they taught as pandas tables.

``ftcluster.sweep``, ``ftcluster.open_sweep``, ``ftcluster.train`` and ``ftcluster.runs_dataframe`` lead here; they are
what the verbs of the same names do. Progress is plain lines, where there is no terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcluster.config.environment import default_home
from ftcluster.errors import UsageError
from ftcluster.imports import heavy_imports

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from ftcluster.ledger.schema import RunRow
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.opening import Opening
    from ftcluster.sweep.plan import SweepPlan
    from ftcluster.training.loop import Progress


@dataclass(frozen=True)
class Run:
    """A training or a trial, as it stood when it was asked for."""

    name: str
    state: str
    reason: str
    step: int
    metrics: Mapping[str, float]
    settings: Mapping[str, Any]  # of a trial what it varies, of a training its config by dotted keys
    folder: Path

    @property
    def result(self) -> Path | None:
        """Its adapter in PEFT's format, or its model folder; None before there is one."""
        from ftcluster.contracts.folder import RunFolder

        folder = RunFolder(self.folder)
        return next((place for place in (folder.adapter, folder.model) if place.is_dir()), None)


class Sweep:
    """A sweep in a home; what it tells is read anew each time, also while it goes on."""

    def __init__(self, name: str, home: Path) -> None:
        self.name, self.home = name, home

    def __repr__(self) -> str:
        with _ledger(self.home) as ledger:
            row, trials = ledger.get(self.name), ledger.runs(parent=self.name)
        ended = sum(trial.state.ended for trial in trials)
        return f"<sweep {self.name}: {row.state}, {ended} of {len(trials)} trials ended>"

    @property
    def state(self) -> str:
        """Such as ``running`` or ``finished``."""
        with _ledger(self.home) as ledger:
            return ledger.get(self.name).state.value

    def trials_dataframe(self) -> pd.DataFrame:
        """A row per trial, by number: what it varied, metrics, state, reason, step, tokens, seconds."""
        from ftcluster.report.frames import frame, trial_records

        with _ledger(self.home) as ledger:
            return frame(trial_records(ledger, self.name))

    def curves_dataframe(self, *metrics: str) -> pd.DataFrame:
        """A row per recorded value: trial, metric, step, value, time; ``metrics`` such as eval/loss, none: all."""
        from ftcluster.report.frames import curve_records, frame

        with _ledger(self.home) as ledger:
            return frame(curve_records(ledger.runs(parent=self.name), metrics), CURVE)

    def best(self) -> Run | None:
        """The finished trial with the best value of the sweep's metric; None before there is one."""
        from ftcluster.ledger.ranking import best_trial

        with _ledger(self.home) as ledger:
            spec, trials = ledger.get(self.name).config["spec"], ledger.runs(parent=self.name)
        found = best_trial(trials, spec["metric"], spec["direction"], spec.get("repeats", 1))
        return _run(found) if found else None

    def report(self, page: str | Path | None = None, *, price: float | None = None) -> Path:
        """Write the page of ``ftcluster report``; where it is. ``price`` is that of a GPU-hour."""
        from ftcluster.report.write import write_report

        with _ledger(self.home) as ledger:
            place = Path(page) if page else None
            return write_report(ledger, self.name, home=self.home, page=place, price=price, now=time.time()).page

    def conclusions(self) -> list[str]:
        """What the report says in words."""
        from ftcluster.report.gather import gather
        from ftcluster.report.sentences import sentences

        with _ledger(self.home) as ledger:
            return sentences(gather(ledger, self.name, now=time.time()))

    def resume(self) -> Sweep:
        """Go on with it here, after it was stopped; returns when it has ended.

        Raises:
            UsageError: there is nothing to resume.
            StoreError: another process drives it.
        """
        from ftcluster.sweep.opening import Opening

        with _ledger(self.home) as ledger:
            row = ledger.get(self.name)
            with Opening.of(row) as opening:
                opening.begin()
                with heavy_imports():
                    from ftcluster.sweep.launch import stored_plan
                _drive(row, stored_plan(row), ledger, _console(), opening)
        return self


CURVE = ("trial", "metric", "step", "value", "time")


def sweep(file: str | Path, *words: str, home: str | Path | None = None, resume: bool | None = None) -> Sweep:
    """Run a sweep to its end: a sweep file or the name of a shipped one, and words that change it.

    ``ftcluster.sweep("sweeps/rank.yaml", "budget.trials=4", "optim.lr=choice(1e-3, 1e-4)")``

    If the same one was begun before and has not ended, ``resume=True`` goes on with it, and False begins another.

    Raises:
        UsageError: that is so, and ``resume`` says neither.
        ConfigError: all problems of the file and the words.
        Interrupted: stopped; everything was saved, and ``open_sweep(name).resume()`` goes on.
        TrialError: no trial finished.
    """
    from ftcluster.sweep.control import begun
    from ftcluster.sweep.specification import read_sweep

    spec, base = read_sweep(str(file), _words(words, home))  # before torch is imported, which takes seconds
    if resume is not False and (same := begun(Path(base.home), spec)):
        if resume is None:
            remedy = "resume=True goes on with it, resume=False begins another one"
            raise UsageError(f"{same.name} is the same sweep and is {same.state}", remedy=remedy)
        return Sweep(same.name, Path(base.home)).resume()
    from ftcluster.config.checks import check_files
    from ftcluster.demo.world import provide
    from ftcluster.sweep.bundles import swept_keys, trials_at_most
    from ftcluster.sweep.opening import Opening

    console = _console()
    provide(base, console.print, _Told(console))
    check_files(base)
    with Opening(base, trials_at_most(spec), swept_keys(spec)) as opening:
        opening.begin()
        with heavy_imports():
            from ftcluster.sweep.forecast.beginning import made_ready
            from ftcluster.sweep.launch import register
            from ftcluster.sweep.plan import make_plan
        plan = made_ready(make_plan(spec, base), opening, lambda text: console.print(text, markup=False))
        with _ledger(base.home) as ledger:
            row = register(plan, ledger, once=resume is not False)
            _drive(row, plan, ledger, console, opening)
    return Sweep(row.name, Path(base.home))


def _drive(row: RunRow, plan: SweepPlan, ledger: Ledger, console: Console, opening: Opening) -> None:
    """Run a sweep to its end, which is its report, however it ends."""
    from ftcluster.report.write import closing_report
    from ftcluster.sweep.launch import run_sweep

    try:
        run_sweep(row, plan, ledger, console, opening)
    finally:
        home = Path(row.folder).parent
        console.print(closing_report(ledger, row.name, home=home, now=time.time()), markup=False)


def open_sweep(name: str, *, home: str | Path | None = None) -> Sweep:
    """A sweep that was started before, here or elsewhere; ``name`` may be its beginning.

    Raises:
        UsageError: there is none, or it is another kind of run.
    """
    from ftcluster.training.records import reap

    place = _home(home)
    with _ledger(place) as ledger:
        reap(ledger)
        row = ledger.find(name)
    if row.kind != "sweep":
        raise UsageError(f"{row.name} is a {row.kind}, not a sweep", remedy="ftcluster.runs_dataframe() lists sweeps")
    return Sweep(row.name, place)


def train(*words: str, home: str | Path | None = None) -> Run:
    """Train one model in this process: ``ftcluster.train("experiment=lora_sft", "optim.lr=1e-3")``.

    Raises:
        ConfigError: all problems of the words.
        Interrupted: stopped; it was saved, and ``ftcluster train --resume`` goes on.
        FtclusterError: why it failed.
    """
    from ftcluster.cluster.sound import keep_to_sound_gpus
    from ftcluster.config.compose import compose, resolve_home
    from ftcluster.demo.world import provide
    from ftcluster.training.launch import get_ready, register, run_training

    console = _console()
    config = compose(_words(words, home))
    for left_out in keep_to_sound_gpus(config.cluster.ranks, config.engine.device):
        console.print(f"warning: {left_out}", markup=False)
    told = _Told(console)
    provide(config, console.print, told)
    ready = get_ready(config)
    with _ledger(resolve_home(config)) as ledger:
        row = register(ready, ledger, "train")
        return _run(run_training(row, ready, ledger, lambda progress: told(progress, ready.plan.total)).row)


def runs_dataframe(expression: str = "", *, home: str | Path | None = None) -> pd.DataFrame:
    """A row per run of a home, trials and sweeps too, with metrics and config: ``runs_dataframe("eval/loss < 2")``.

    Raises:
        ConfigError: the expression cannot be read, or names keys that no run has.
    """
    from ftcluster.report.frames import frame
    from ftcluster.report.records import filtered, record
    from ftcluster.training.records import reap

    with _ledger(_home(home)) as ledger:
        reap(ledger)
        records = [record(row, time.time()) for row in ledger.runs()]
    return frame(filtered(records, expression) if expression and records else records)


class _Told:
    """Progress of a training as a line every tenth of the way."""

    def __init__(self, console: Console) -> None:
        self._console, self._tenths = console, 0

    def __call__(self, progress: Progress, total: int) -> None:
        if progress.step * 10 // total > self._tenths:
            self._tenths = progress.step * 10 // total
            self._console.print(f"step {progress.step}/{total}  loss {progress.loss:.4f}")
        if progress.step == total:
            self._tenths = 0


def _console() -> Console:
    """Plain text, also in a notebook, where rich would make a block of HTML of each line."""
    from rich.console import Console

    return Console(file=sys.stdout, force_jupyter=False, highlight=False, soft_wrap=True)


def _ledger(home: str | Path) -> Ledger:
    from ftcluster.ledger.store import Ledger

    return Ledger.open(Path(home))


def _home(home: str | Path | None) -> Path:
    return Path(home).expanduser().absolute() if home else default_home()


def _words(words: Sequence[str], home: str | Path | None) -> list[str]:
    return [*words, *([f"home={_home(home)}"] if home else [])]


def _run(row: RunRow) -> Run:
    from ftcluster.report.records import settings_of

    settings = dict(row.overrides) if row.kind == "trial" else settings_of(row)
    return Run(row.name, row.state.value, row.reason, row.step, dict(row.metrics), settings, Path(row.folder))
