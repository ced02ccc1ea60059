"""``ftcluster sweep``: many trials at once; ``ftcluster sweep resume``: go on with one that was stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ftcluster.cli.arguments import ConfigDir, Home, Json, Overrides, SweepFile, TakeOver
from ftcluster.cli.output import console, notices, print_json, table
from ftcluster.cli.progress import RowsBar, TrainingBar
from ftcluster.cli.sweep_control import SweepOrTrial, add, clone, extend, pause, stop, tell_asked
from ftcluster.cli.sweep_plan import show_forecast
from ftcluster.cli.sweep_status import list_sweeps, status, watch
from ftcluster.config.environment import default_home, home_option
from ftcluster.errors import UsageError
from ftcluster.imports import heavy_imports

if TYPE_CHECKING:
    from ftcluster.config.schema import RunConfig, SweepConfig
    from ftcluster.ledger.schema import RunRow
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.launch import SweepResult
    from ftcluster.sweep.opening import Opening
    from ftcluster.sweep.plan import SweepPlan


class _FileOrVerb(TyperGroup):
    """``sweep FILE`` means ``sweep run FILE``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


sweep = typer.Typer(
    cls=_FileOrVerb,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"ignore_unknown_options": True},
    help="Train many variants at once and stop the weak ones early: ftcluster sweep FILE [KEY=VALUE]...",
)


@sweep.command("run")
def run(
    file: SweepFile,
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be tried, and stop.")] = False,
    forecast: Annotated[
        bool, typer.Option("--plan", help="Time a few steps, show what the sweep would take, and stop.")
    ] = False,
    go_on: Annotated[bool, typer.Option("--resume", help="Go on with the same sweep, if it was begun before.")] = False,
    new: Annotated[bool, typer.Option("--new", help="Begin another one, even if the same was begun before.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Launch a sweep from a file; words on the command line change it or add to its space.

    [bold]Examples[/bold]

      ftcluster sweep sweeps/lora_rank_lr.yaml

      ftcluster sweep lora_rank_lr budget.trials=16 'optim.lr=tag(log, interval(1e-4, 1e-2))' adapter.rank=4,8,16
    """
    from ftcluster.sweep.specification import read_sweep

    words = [*(overrides or []), *([f"home={home.absolute()}"] if home else [])]
    spec, base = read_sweep(file, words, config_dir=config_dir)
    if not (dry_run or forecast or new):
        begun = _begun(spec, Path(base.home), go_on=go_on)
        if begun:
            resume(begun, home=Path(base.home), as_json=as_json)
            return
        new = begun is None
    from ftcluster.config.checks import check_files
    from ftcluster.demo.world import provide
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.bundles import swept_keys, trials_at_most
    from ftcluster.sweep.opening import Opening
    from ftcluster.training.records import reap

    with TrainingBar() as training:
        provide(base, notices().print, training.observe)
    check_files(base)
    with Opening(base, trials_at_most(spec), swept_keys(spec)) as opening:
        launched = not (dry_run or forecast)
        if launched:
            opening.begin()
        with heavy_imports():  # only now, since torch and transformers come with them
            from ftcluster.sweep.forecast.beginning import made_ready
            from ftcluster.sweep.launch import register
        plan = _planned(spec, base)
        if not launched:
            _show_plan(plan, as_json) if dry_run else show_forecast(plan, as_json)
            return
        plan = made_ready(plan, opening, lambda text: notices().print(text, markup=False, soft_wrap=True))
        with Ledger.open(base.home) as ledger:
            reap(ledger)
            _drive(register(plan, ledger, once=not new), plan, ledger, as_json, opening)


@sweep.command("resume")
def resume(
    name: SweepOrTrial,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option("--address", metavar="HOST:PORT", help="Another Ray cluster than the one it began on.")
    ] = "",
    take_over: TakeOver = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Go on with a sweep that was stopped or paused or whose driver died, or with one of its trials that was paused.

    Finished work is kept. A paused sweep goes on where it is driven; any other one is driven from here. Words say how
    it is computed from now on, such as cluster.ranks=2 or engine.stage=3.
    """
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.control import PAUSE, ask, control, driven
    from ftcluster.sweep.opening import Opening
    from ftcluster.training.records import reap

    with Ledger.open(home or default_home()) as ledger:
        reap(ledger)
        row = ledger.find(name)
        if overrides and row.kind == "trial":
            raise UsageError(f"{row.name} goes on as its sweep does", remedy=f"ftcluster sweep resume {row.parent} ...")
        if row.kind == "trial" or (not overrides and control(row).sweep.state == PAUSE and driven(row)):
            tell_asked(ask(ledger, row, ""), f"{row.name} goes on", home)
            return
        if overrides:
            with heavy_imports():
                from ftcluster.sweep.resumption import go_on_with
            row = go_on_with(ledger, row, overrides, _warn, take_over=take_over)
        if control(row).sweep.state == PAUSE:
            row = ask(ledger, row, "")
        with Opening.of(row, address) as opening:
            opening.begin()
            with heavy_imports():
                from ftcluster.sweep.launch import stored_plan
            with RowsBar("preparing data") as bar:
                plan = replace(stored_plan(row, bar.update), base=opening.base)
            _drive(row, plan, ledger, as_json, opening, take_over=take_over)


def _warn(text: str) -> None:
    notices().print(f"warning: {text}", markup=False, soft_wrap=True)


def _planned(spec: SweepConfig, base: RunConfig) -> SweepPlan:
    """With its data prepared; people are told about it."""
    from ftcluster.cli.data_report import tell_data, tell_engine
    from ftcluster.sweep.plan import make_plan

    with RowsBar("preparing data") as bar:
        plan = make_plan(spec, base, progress=bar.update)
    tell_data(plan.report, base.data)
    tell_engine(base, sweep=True)
    return plan


def _begun(spec: SweepConfig, home: Path, *, go_on: bool) -> str | None:
    """The name of the same sweep, if one is not finished and the user wants to go on with it; None: wants another."""
    from ftcluster.sweep.control import begun

    row = begun(home, spec)
    if row is None or go_on:
        return row.name if row else ""
    told = f"{row.name} is the same sweep and is {row.state}"
    if not notices().is_terminal or not sys.stdin.isatty():
        raise UsageError(told, remedy="--resume goes on with it, --new begins another one")
    return row.name if typer.confirm(f"{told}. Go on with it? (no: begin another one)", default=True) else None


_VERBS: dict[str, Callable[..., None]] = {
    "list": list_sweeps,
    "status": status,
    "watch": watch,
    "pause": pause,
    "stop": stop,
    "extend": extend,
    "add": add,
    "clone": clone,
}
for _name, _verb in _VERBS.items():
    sweep.command(_name)(_verb)


def _drive(
    row: RunRow,
    plan: SweepPlan,
    ledger: Ledger,
    as_json: bool,
    opening: Opening,
    *,
    take_over: bool = False,
) -> None:
    from ftcluster.report.write import closing_report
    from ftcluster.sweep.launch import run_sweep

    notices().print(f"[bold]{row.name}[/bold]: {_in_words(plan)}; {row.folder}")
    result = run_sweep(row, plan, ledger, notices(), opening, take_over=take_over)
    report = closing_report(ledger, row.name, home=result.folder.parent, now=time.time())
    notices().print(report, markup=False, soft_wrap=True)
    _tell(result, plan, as_json)


def _in_words(plan: SweepPlan) -> str:
    if len(plan.rungs) == 1:
        return f"{plan.trials} trials of {plan.rungs[0]} steps"
    judged = ", ".join(map(str, _shortened(plan.rungs[:-1])))
    return f"{plan.trials} trials, judged at step {judged}, the best trained to step {plan.rungs[-1]}"


def _shortened(steps: Sequence[int]) -> list[int | str]:
    return [*steps] if len(steps) <= 8 else [*steps[:4], "...", steps[-1]]


def _show_plan(plan: SweepPlan, as_json: bool) -> None:
    from ftcluster.config.compose import to_dict
    from ftcluster.sweep.space import describe
    from ftcluster.sweep.study import cut_share
    from ftcluster.training.bench import size_of

    facts = {
        "sweep": plan.name,
        "trials": plan.trials,
        **({"seeds of each point": plan.spec.repeats} if plan.spec.repeats > 1 else {}),
        **({"named trials": ", ".join(plan.spec.always)} if plan.spec.always else {}),
        **({"known from earlier sweeps": len(plan.earlier)} if plan.earlier else {}),
        "base config trains": str(size_of(plan.base)),
        "judged at steps": list(plan.rungs) if as_json else ", ".join(map(str, _shortened(plan.rungs))),
        "steps at most": plan.steps_at_most,
        "steps without pruning": plan.trials * plan.rungs[-1],
        "tokens per step": round(plan.steps.tokens_per_step),
        "metric": ", ".join(f"{k} {v}" for k, v in {plan.spec.metric: plan.spec.direction, **plan.spec.also}.items()),
        "sampler": plan.spec.sampler.name,
        **{f"budget.{key}": value for key, value in to_dict(plan.spec.budget).items() if value and key != "trials"},
    }
    if as_json:
        print_json({**facts, "space": plan.spec.space, "base": to_dict(plan.base)})
        return
    table(("", plan.name), list(facts.items())[1:])
    console().print("\n" + describe(plan.space), markup=False)
    if share := cut_share(plan.space):
        console().print(f"about {share:.0%} of what is drawn would break a constraint and is left out", markup=False)


def _tell(result: SweepResult, plan: SweepPlan, as_json: bool) -> None:
    from rich.markup import escape

    from ftcluster.sweep.objectives import front
    from ftcluster.sweep.results import best_in_words, front_in_words

    best, spec = result.best, plan.spec
    if as_json:
        trials = [
            {"name": t.name, "state": t.state, "step": t.step, "overrides": t.overrides, "metrics": t.metrics}
            for t in result.trials
        ]
        several = {"front": [trial.name for trial, _ in front(result.trials, spec)]} if spec.also else {}
        print_json({"sweep": result.name, "best": best.name, "metrics": best.metrics, **several, "trials": trials})
        return
    at = home_option(result.folder.parent)
    lines = [f"[bold green]best: {best.name}[/], {escape(best_in_words(best, result.trials, spec))}"]
    lines += map(escape, front_in_words(result.trials, spec))
    if result.undelivered:
        lines.append(f"  {result.undelivered} records are not in MLflow yet; ftcluster runs sync{at} delivers them")
    lines.append(
        f"  next: ftcluster compare {result.name}{at}   ftcluster promote {result.name}{at}   ftcluster ui{at}"
    )
    console().print("\n".join(lines), soft_wrap=True)
