"""``ftcluster sweep``: many trials at once; ``ftcluster sweep resume``: go on with one that was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ftcluster.cli.arguments import ConfigDir, Home, Json, Overrides, SweepFile, TakeOver
from ftcluster.cli.output import console, notices, print_json, table
from ftcluster.cli.progress import RowsBar, TrainingBar
from ftcluster.cli.sweep_control import SweepOrTrial, extend, pause, stop, tell_asked
from ftcluster.cli.sweep_status import list_sweeps, status, watch
from ftcluster.config.environment import default_home

if TYPE_CHECKING:
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
    # Only now, since torch and transformers come with them, which takes seconds.
    from ftcluster.cli.data_report import tell_data, tell_engine
    from ftcluster.config.checks import check_files
    from ftcluster.demo.world import provide
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.launch import register
    from ftcluster.sweep.opening import Opening
    from ftcluster.sweep.plan import make_plan
    from ftcluster.training.records import reap

    with TrainingBar() as training:
        provide(base, notices().print, training.observe)
    check_files(base)
    with Opening(base, spec.budget.trials, spec.space) as opening:
        if not dry_run:
            opening.begin()
        with RowsBar("preparing data") as bar:
            plan = make_plan(spec, base, progress=bar.update)
        tell_data(plan.report, base.data)
        tell_engine(base)
        if dry_run:
            _show_plan(plan, as_json)
            return
        with Ledger.open(base.home) as ledger:
            reap(ledger)
            _drive(register(plan, ledger), plan, ledger, as_json, opening=opening)


@sweep.command("resume")
def resume(
    name: SweepOrTrial,
    address: Annotated[
        str, typer.Option("--address", metavar="HOST:PORT", help="Another Ray cluster than the one it began on.")
    ] = "",
    take_over: TakeOver = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Go on with a sweep that was stopped or paused or whose driver died, or with one of its trials that was paused.

    Finished work is kept. A paused sweep goes on where it is driven; any other one is driven from here.
    """
    from ftcluster.ledger.store import Ledger
    from ftcluster.sweep.control import PAUSE, ask, control, driven
    from ftcluster.sweep.launch import stored_plan
    from ftcluster.training.records import reap

    with Ledger.open(home or default_home()) as ledger:
        reap(ledger)
        row = ledger.find(name)
        if row.kind == "trial" or (control(row).sweep.state == PAUSE and driven(row)):
            tell_asked(ask(ledger, row, ""), f"{row.name} goes on", home)
            return
        if control(row).sweep.state == PAUSE:
            row = ask(ledger, row, "")
        with RowsBar("preparing data") as bar:
            plan = stored_plan(row, bar.update)
        if address:
            plan = replace(plan, base=replace(plan.base, cluster=replace(plan.base.cluster, address=address)))
        _drive(row, plan, ledger, as_json, take_over=take_over)


_VERBS: dict[str, Callable[..., None]] = {
    "list": list_sweeps,
    "status": status,
    "watch": watch,
    "pause": pause,
    "stop": stop,
    "extend": extend,
}
for _name, _verb in _VERBS.items():
    sweep.command(_name)(_verb)


def _drive(
    row: RunRow,
    plan: SweepPlan,
    ledger: Ledger,
    as_json: bool,
    *,
    take_over: bool = False,
    opening: Opening | None = None,
) -> None:
    from ftcluster.sweep.launch import run_sweep

    notices().print(f"[bold]{row.name}[/bold]: {_in_words(plan)}; {row.folder}")
    _tell(run_sweep(row, plan, ledger, notices(), take_over=take_over, opening=opening), plan, as_json)


def _in_words(plan: SweepPlan) -> str:
    if len(plan.rungs) == 1:
        return f"{plan.trials} trials of {plan.rungs[0]} steps"
    judged = ", ".join(map(str, plan.rungs[:-1]))
    return f"{plan.trials} trials, judged at step {judged}, the best trained to step {plan.rungs[-1]}"


def _show_plan(plan: SweepPlan, as_json: bool) -> None:
    from ftcluster.config.compose import to_dict
    from ftcluster.sweep.space import describe
    from ftcluster.training.bench import size_of

    facts = {
        "sweep": plan.name,
        "trials": plan.trials,
        "base config trains": str(size_of(plan.base)),
        "judged at steps": list(plan.rungs),
        "steps at most": plan.steps_at_most,
        "steps without pruning": plan.trials * plan.rungs[-1],
        "tokens per step": round(plan.steps.tokens_per_step),
        "metric": f"{plan.spec.metric}, {plan.spec.direction}",
        "sampler": plan.spec.sampler.name,
    }
    if as_json:
        print_json({**facts, "space": plan.spec.space, "base": to_dict(plan.base)})
        return
    table(("", plan.name), list(facts.items())[1:])
    console().print("\n" + describe(plan.space), markup=False)


def _tell(result: SweepResult, plan: SweepPlan, as_json: bool) -> None:
    from rich.markup import escape

    from ftcluster.sweep.view import in_words
    from ftcluster.training.launch import home_option

    best, metric = result.best, plan.spec.metric
    if as_json:
        trials = [
            {"name": t.name, "state": t.state, "step": t.step, "overrides": t.overrides, "metrics": t.metrics}
            for t in result.trials
        ]
        print_json({"sweep": result.name, "best": best.name, "metrics": best.metrics, "trials": trials})
        return
    at, settings = home_option(result.folder.parent), escape(in_words(best.overrides))
    lines = [f"[bold green]best: {best.name}[/], {metric} {best.metrics[metric]:.4f}, {settings}"]
    if result.undelivered:
        lines.append(f"  {result.undelivered} records are not in MLflow yet; ftcluster runs sync{at} delivers them")
    lines.append(
        f"  next: ftcluster compare {result.name}{at}   ftcluster promote {result.name}{at}   ftcluster ui{at}"
    )
    console().print("\n".join(lines), soft_wrap=True)
