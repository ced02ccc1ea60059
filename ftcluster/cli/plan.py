"""``ftcluster plan``: what a training needs of GPUs, before anything is launched."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ftcluster.cli.arguments import ConfigDir, Json, Overrides
from ftcluster.cli.output import console, print_json, table
from ftcluster.config.checks import check
from ftcluster.config.compose import compose
from ftcluster.errors import UsageError
from ftcluster.units import format_bytes, format_count

if TYPE_CHECKING:
    from ftcluster.config.schema import RunConfig
    from ftcluster.models.memory import Footprint
    from ftcluster.models.parallel import Choice
    from ftcluster.training.planning import Candidate, MemoryPlan

_KINDS = ("weights", "gradients", "optimizer", "adapter", "activations", "logits", "buffers", "step")
_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


def plan(
    overrides: Overrides = None,
    gpu_memory: Annotated[
        str | None, typer.Option("--gpu-memory", metavar="SIZE", help="Memory of each GPU, such as 80GiB.")
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, max=4096, metavar="N", help="GPUs of a training; cluster.ranks unless said."),
    ] = None,
    stage: Annotated[
        int | None, typer.Option("--stage", min=0, max=3, help="Keep to this ZeRO stage.", show_default=False)
    ] = None,
    offload: Annotated[
        str | None,
        typer.Option("--offload", metavar="WHAT", help="Keep to this in main memory: none, optimizer, parameters."),
    ] = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Predict the memory of a training, and choose how to lay it over GPUs. Nothing is loaded or launched.

    Takes the words of ftcluster train. Of the model only its config.json is read, and no data is needed.

    [bold]Examples[/bold]

      ftcluster plan model=folder model.path=./qwen adapter=lora --gpu-memory 24GiB

      ftcluster plan model=folder model.path=./llama adapter=none data.max_length=4096 --gpus 8 --gpu-memory 80GiB

    Without --gpu-memory it plans for the GPUs of this machine; where there are none it says which sizes would do.

    [bold]Reading the table[/bold]

    Bytes on each GPU. Weights, gradients and optimizer state are always there; ZeRO stage 1 divides optimizer state
    among GPUs, stage 2 gradients too, stage 3 weights too. Activations and logits come and go with each pass: fewer
    rows in a pass (optim.micro_batch), shorter rows (data.max_length) or engine.activation_checkpointing=true make
    them smaller. Offload keeps a part in main memory, which is slow. The cheapest way that fits is chosen, in the
    order: no offload, passes that keep a GPU busy, a stage below 3, no checkpointing, larger passes.

    Where earlier trainings of this home on such a device measured what they took, all bytes are multiplied by what
    that was over what was predicted of them. The exit code is 2 where nothing fits.
    """
    if offload not in (None, "none", "optimizer", "parameters"):
        raise UsageError(f"--offload {offload} does not exist", remedy="choose none, optimizer or parameters")
    config = _composed(overrides or [], config_dir)
    from ftcluster.training.planning import Gpus, gpus_here, parse_memory, plan_memory

    wanted = gpus_here() if gpu_memory is None else Gpus(0, parse_memory(gpu_memory))
    wanted = replace(wanted, count=gpus or config.cluster.ranks)
    found = plan_memory(config, wanted, stage, offload)  # type: ignore[arg-type]
    if as_json:
        print_json(_plain(found))
    else:
        _show(found)
    if not (found.chosen or found.sizes):  # a script must not go on
        raise typer.Exit(UsageError.exit_code)


def _composed(overrides: list[str], config_dir: Path | None) -> RunConfig:
    """The config, checked as far as a plan needs it: there may be no data yet."""
    if not overrides:
        remedy = "ftcluster plan model=folder model.path=FOLDER; ftcluster plan --help has examples"
        raise UsageError("nothing says what to plan", remedy=remedy)
    config = compose(overrides, config_dir=config_dir)
    there = bool(config.data.train or config.data.sources)
    check(config if there else replace(config, data=replace(config.data, train=["rows.jsonl"])))
    return config


def _show(found: MemoryPlan) -> None:
    from ftcluster.training.memory_record import calibrated

    numbers, out = found.numbers, console()
    trains = f"an adapter of {format_count(found.trained)}" if found.adapter else "all of them"
    out.print(f"[bold]{escape(found.model)}[/bold]: {format_count(numbers.total)} parameters, trains {trains}")
    kinds = {"embedding": numbers.embedding, "linear": numbers.linear, "head": numbers.head, "other": numbers.other}
    out.print(f"  {', '.join(f'{name} {format_count(size)}' for name, size in kinds.items() if size)}\n")
    layout = found.candidates[0].layout
    again = "with" if layout.checkpointing else "without"
    unit, size = _unit(found)
    title = f"{unit} on each GPU; {_rows(layout.rows)} in a pass, {again} activation checkpointing"
    shown = [kind for kind in _KINDS if any(getattr(each.bytes, kind) for each in found.candidates)]
    columns = ["GPUs", "stage", "offload", *shown, "at most", "in RAM", *(["fits"] if found.gpus.memory else [])]
    table(columns, [_line(found, each, shown, size) for each in found.candidates], title=title)
    if found.calibration.runs:
        out.print(f"{calibrated(found.calibration)}; all bytes are multiplied by that", style="dim")
    out.print()
    _tell_sizes(found)
    _tell_choice(found)
    _tell_trials(found)


def _unit(found: MemoryPlan) -> tuple[str, int]:
    """One for the whole table, so that columns can be compared."""
    most = max(each.bytes.on_gpu for each in found.candidates)
    return next((name, size) for name, size in _UNITS if most >= 10 * size or size == 1)


def _line(found: MemoryPlan, each: Candidate, shown: list[str], unit: int) -> list[object]:
    layout, sizes = each.layout, [getattr(each.bytes, kind) for kind in shown]
    chosen = found.chosen is not None and found.chosen.layout == layout
    verdict = "chosen" if chosen else "yes" if each.fits else "no"
    cells = [round(size / unit, 1) for size in (*sizes, each.bytes.on_gpu, each.bytes.host)]
    return [layout.gpus, layout.stage, layout.offload, *cells, *([verdict] if found.gpus.memory else [])]


def _tell_sizes(found: MemoryPlan) -> None:
    if found.gpus.memory:
        return
    what = "a GPU" if found.gpus.count == 1 else f"{found.gpus.count} GPUs"
    if found.sizes:
        console().print(f"There is no GPU here. What {what} of each size would do, up from the first that will:")
    for gib, made in found.sizes:
        console().print(f"  {gib:4} GiB  {made.words}: {format_bytes(made.footprint.on_gpu)}")
    if not found.sizes:
        console().print(
            f"There is no GPU here, and {what} would not do of any size; try --gpus {2 * found.gpus.count}."
        )
    console().print("Plan for one with --gpu-memory 80GiB.", style="dim")


def _tell_choice(found: MemoryPlan) -> None:
    out, gpus = console(), found.gpus
    have = f"{gpus.count} x {format_bytes(gpus.memory)}" + (f" ({gpus.name})" if gpus.name else "")
    if found.chosen and found.step:
        step = found.step
        need = format_bytes(found.chosen.footprint.on_gpu)
        out.print(f"[bold green]fits[/] {have}: {found.chosen.words}: {need} on each GPU", soft_wrap=True)
        for reason in found.chosen.reasons:
            out.print(f"  because {reason}", soft_wrap=True)
        passes = f"{step.passes} {'pass' if step.passes == 1 else 'passes'}"
        out.print(
            f"  a step: at most {step.tokens:,} tokens in {passes}, {step.tokens_per_gpu:,} in one of a GPU",
            soft_wrap=True,
        )
        if found.settings:
            out.print(f"  say: {' '.join(found.settings)}", soft_wrap=True)
    elif gpus.memory:
        out.print(f"[bold red]does not fit[/] {have}, however it is laid out", soft_wrap=True)
        for text in found.alternatives:
            out.print(f"  would fit: {text}", soft_wrap=True)
        if not found.alternatives:
            out.print("  none of more or larger GPUs, shorter rows or a smaller adapter is enough by itself")


def _tell_trials(found: MemoryPlan) -> None:
    if found.trials_beside is None:
        return
    if not found.trials_beside:
        console().print("no LoRA trials fit beside each other on one GPU")
        return
    words = f"engine.mode=fast cluster.trials_per_host={found.trials_beside}"
    many = f"{found.trials_beside} LoRA {'trial fits' if found.trials_beside == 1 else 'trials fit'}"
    console().print(f"{many} on one GPU of a sweep, on one base: {words}", soft_wrap=True)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _plain(found: MemoryPlan) -> dict[str, object]:
    """For programs: sums that people see are in it too."""
    return {
        **asdict(found),
        "numbers": {**asdict(found.numbers), "total": found.numbers.total},
        "candidates": [
            {**asdict(each.layout), "bytes": _bytes(each.bytes), "fits": each.fits} for each in found.candidates
        ],
        "chosen": _choice(found.chosen) if found.chosen else None,
        "sizes": [{"gib": gib, **_choice(made)} for gib, made in found.sizes],
    }


def _choice(made: Choice) -> dict[str, object]:
    return {**asdict(made.layout), "bytes": _bytes(made.footprint), "reasons": made.reasons}


def _bytes(made: Footprint) -> dict[str, int]:
    return {**asdict(made), "on_gpu": made.on_gpu}
