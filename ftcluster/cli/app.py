"""The table of verbs, and a Typer group that imports a verb's module only when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from ftcluster import __version__
from ftcluster.config.suggest import did_you_mean
from ftcluster.errors import UsageError

_JOB, _USE, _SETUP = "The main job", "Using what you trained", "Setting up"


class Verb(NamedTuple):
    """Where a verb is, and what help says about it before its module is imported."""

    target: str  # module:attribute, a function or a Typer app
    summary: str
    panel: str


VERBS: dict[str, Verb] = {
    "train": Verb("ftcluster.cli.train:train", "Train one model: full fine-tune, LoRA or pre-training.", _JOB),
    "plan": Verb("ftcluster.cli.plan:plan", "Predict the memory of a training, and which GPUs would do.", _JOB),
    "data": Verb("ftcluster.cli.data:data", "Check, look at, convert, split and sample training data.", _JOB),
    "sweep": Verb("ftcluster.cli.sweep:sweep", "Train many variants at once and stop the weak ones early.", _JOB),
    "runs": Verb("ftcluster.cli.runs:runs", "List runs and sweeps, show one, deliver what MLflow is missing.", _JOB),
    "compare": Verb(
        "ftcluster.cli.compare:compare", "Compare runs on the same held-out rows, in a table and a page.", _JOB
    ),
    "report": Verb(
        "ftcluster.cli.report:report", "Say what a sweep taught: what is best, what matters, what it took.", _JOB
    ),
    "promote": Verb("ftcluster.cli.promote:promote", "Give the best adapter an alias in the model registry.", _JOB),
    "rollback": Verb("ftcluster.cli.rollback:rollback", "Move an alias back to the version before.", _JOB),
    "chat": Verb("ftcluster.cli.chat:chat", "Talk to a base model, a run or a registered adapter.", _USE),
    "ui": Verb("ftcluster.cli.ui:ui", "Open the MLflow pages of the embedded store.", _USE),
    "demo": Verb("ftcluster.cli.demo:demo", "See all of it work on a tiny model, in minutes, without a GPU.", _SETUP),
    "config": Verb("ftcluster.cli.config:app", "Show what can be configured, and check a file before it runs.", _SETUP),
    "submit": Verb(
        "ftcluster.cli.submit:submit", "Run any verb as a job on a cluster, and follow what it says.", _SETUP
    ),
    "doctor": Verb("ftcluster.cli.doctor:doctor", "Check this machine: versions, GPUs, disk, MLflow, Ray.", _SETUP),
    "cluster": Verb(
        "ftcluster.cli.cluster:cluster", "Show nodes and GPUs, what is wrong with them and what runs.", _SETUP
    ),
}


class VerbGroup(TyperGroup):
    """Help and completion see summaries from the table; only the verb that is called is imported."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature of the base class
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the signature of the base class
        verb = VERBS.get(cmd_name)
        return verb and TyperCommand(cmd_name, help=verb.summary, rich_help_panel=verb.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = did_you_mean(args[0], VERBS)
            raise UsageError(f"{args[0]} is not a verb.{near}", remedy=f"verbs: {', '.join(VERBS)}")
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name and command else command, rest


def build() -> Any:
    """The whole command line, as the command object that ``main`` runs."""
    app = typer.Typer(
        cls=VerbGroup,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_ftcluster)
    return typer.main.get_command(app)


def load(name: str) -> Any:
    """Import one verb and make it a command."""
    module, _, attribute = VERBS[name].target.partition(":")
    target = getattr(import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        single = typer.Typer(add_completion=False, rich_markup_mode="rich")
        single.command(name)(target)
        target = single
    command = typer.main.get_command(target)
    command.name = name
    return command


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ftcluster {__version__}")
        raise typer.Exit


def _ftcluster(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """Fine-tune language models on a cluster: sweep, compare, promote.

    [bold]See it work[/bold] (4 minutes, no GPU needed):

      ftcluster demo

    [bold]Your own model and data[/bold]:

      ftcluster train experiment=lora_sft model=folder model.path=./qwen data=jsonl data.train=\\[rows.jsonl]
      ftcluster data check rows.jsonl
      ftcluster sweep my_sweep.yaml
      ftcluster compare my-sweep
      ftcluster promote my-sweep

    Every verb explains itself: [bold]ftcluster VERB --help[/bold].
    """
