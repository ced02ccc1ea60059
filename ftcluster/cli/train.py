"""``ftcluster train``: one training, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from ftcluster.cli.arguments import ConfigDir, Home, Json, Overrides, TakeOver
from ftcluster.cli.complete import complete_run
from ftcluster.cli.output import console, notices, print_json
from ftcluster.cli.progress import RowsBar, TrainingBar
from ftcluster.config.checks import check
from ftcluster.config.compose import compose, resolve_home, to_dict
from ftcluster.config.environment import default_home, home_option
from ftcluster.errors import UsageError
from ftcluster.imports import heavy_imports

if TYPE_CHECKING:
    from ftcluster.config.schema import RunConfig
    from ftcluster.training.launch import Ready, TrainingResult

_Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="RUN",
        autocompletion=complete_run,
        help="Go on with a run that was stopped or failed; words may say how it is computed from now on.",
    ),
]


def train(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, prepare the data, show config and plan, and stop.")
    ] = False,
    resume: _Resume = None,
    take_over: TakeOver = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train one model: a full fine-tune, a LoRA adapter, or pre-training on plain text.

    [bold]Examples[/bold]

      ftcluster train experiment=lora_sft optim.lr=1e-3

      ftcluster train model=folder model.path=./qwen data=jsonl data.train=\\[rows.jsonl] adapter=lora adapter.rank=16

      ftcluster train experiment=full_sft --dry-run

      ftcluster train --resume full-sft cluster.ranks=4 engine.stage=3
    """
    words = [*(overrides or []), *([f"home={home}"] if home else [])]
    config = _stored(resume, overrides, home) if resume else _composed(overrides, words, config_dir)
    check(config)
    with heavy_imports():  # only now, since torch and transformers come with them
        from ftcluster.cli.data_report import tell_data, tell_engine
        from ftcluster.cluster.sound import keep_to_sound_gpus
        from ftcluster.demo.world import provide
        from ftcluster.ledger.store import Ledger
        from ftcluster.training.bench import size_of
        from ftcluster.training.launch import get_ready, register, run_training
        from ftcluster.training.records import reap

    for left_out in keep_to_sound_gpus(config.cluster.ranks, config.engine.device) if not dry_run else ():
        notices().print(f"warning: {left_out}", markup=False, soft_wrap=True)
    with TrainingBar() as bar:
        provide(config, notices().print, bar.observe)
    with RowsBar("preparing data") as preparing:
        ready = get_ready(config, preparing.update, begun=resume is not None and not overrides)
    tell_data(ready.report, config.data)
    tell_engine(config)
    if dry_run:
        _show_plan(ready, as_json)
        return
    with Ledger.open(resolve_home(config)) as ledger:
        reap(ledger)
        row = ledger.find(resume) if resume else register(ready, ledger, _experiment(words))
        notices().print(f"[bold]{row.name}[/bold]: {ready.plan.total} steps, trains {size_of(config)}; {row.folder}")
        with TrainingBar() as training:
            result = run_training(
                row,
                ready,
                ledger,
                lambda progress: training.observe(progress, ready.plan.total),
                take_over=take_over,
                tell=lambda text: notices().print(f"warning: {text}", markup=False, soft_wrap=True),
            )
    _tell(result, as_json)


def _stored(run: str, overrides: list[str] | None, home: Path | None) -> RunConfig:
    from ftcluster.ledger.store import Ledger
    from ftcluster.training.launch import stored_config

    with Ledger.open(home or default_home()) as ledger:
        return stored_config(ledger.find(run), overrides or ())


def _composed(overrides: list[str] | None, words: list[str], config_dir: Path | None) -> RunConfig:
    if not overrides:
        raise UsageError(
            "nothing says what to train",
            remedy="ftcluster train experiment=lora_sft trains the demo's task; "
            "ftcluster config groups lists experiments, models and data; ftcluster train --help has examples",
        )
    return compose(words, config_dir=config_dir)


def _experiment(words: list[str]) -> str:
    chosen = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    return chosen[-1] if chosen else "train"


def _show_plan(ready: Ready, as_json: bool) -> None:
    from ftcluster.training.bench import size_of

    size = size_of(ready.config)
    plan = {
        "parameters": size.total,
        "parameters_trained": size.trained,
        "steps": ready.plan.total,
        "steps_per_epoch": ready.plan.steps_per_epoch,
        "tokens_per_step": round(ready.plan.tokens_per_step),
        "evaluate_every": ready.plan.evaluate_every,
        "save_every": ready.plan.save_every,
        "prepared": str(ready.prepared),
    }
    if as_json:
        print_json({"config": to_dict(ready.config), "plan": plan})
        return

    console().print(
        yaml.safe_dump({"config": to_dict(ready.config), "plan": plan}, sort_keys=False, allow_unicode=True)
    )


def _tell(result: TrainingResult, as_json: bool) -> None:
    for warning in result.warnings:
        notices().print(f"warning: {warning}", markup=False, soft_wrap=True)
    row = result.row
    where = result.folder.adapter if result.folder.adapter.is_dir() else result.folder.model
    if as_json:
        print_json({"run": row.name, "state": row.state, "step": row.step, "metrics": row.metrics, "result": where})
        return
    shown = ", ".join(f"{name} {value:.4f}" for name, value in row.metrics.items() if name.startswith("eval/"))
    at = home_option(result.folder.path.parent)
    lines = [f"[bold green]{row.name} finished[/] at step {row.step}: {shown}", f"  result: {where}"]
    if result.undelivered:
        lines.append(f"  {result.undelivered} records are not in MLflow yet; ftcluster runs sync{at} delivers them")
    lines.append(f"  next: ftcluster chat {row.name}{at}   ftcluster runs show {row.name}{at}   ftcluster ui{at}")
    console().print("\n".join(lines), soft_wrap=True)
