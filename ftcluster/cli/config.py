"""``ftcluster config``: what can be chosen, what a config resolves to, and whether a file is sound."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ftcluster.cli.arguments import ConfigDir, Json, Overrides
from ftcluster.cli.output import console, print_json, table
from ftcluster.config.catalog import describe, groups, known_keys, section_comments
from ftcluster.config.schema import RunConfig
from ftcluster.errors import ConfigError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Show what can be configured, and check a file before it runs.\n\nNothing is trained or written.",
)


@app.command("groups")
def show_groups(config_dir: ConfigDir = None, as_json: Json = False) -> None:
    """List config groups and their options.

    A group is a folder of ready-made choices. One word picks one: [bold]ftcluster train model=folder[/bold].
    Your own folder, laid out alike, adds to them: [bold]--config-dir my_conf[/bold].
    """
    found = {
        group: {option: describe(group, option, config_dir) for option in options}
        for group, options in groups(config_dir).items()
    }
    if as_json:
        print_json(found)
        return
    rows = [
        (group if index == 0 else "", option, text)
        for group, options in found.items()
        for index, (option, text) in enumerate(options.items())
    ]
    table(("group", "option", "what it is"), rows)


@app.command("show")
def show_config(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    deepspeed: Annotated[
        bool, typer.Option("--deepspeed", help="Print the DeepSpeed JSON made of it instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the config that some words resolve to, every key with its meaning.

    ftcluster config show
    ftcluster config show experiment=lora_sft optim.lr=1e-3
    ftcluster config show experiment=lora_sft > my_conf/experiment/mine.yaml
    ftcluster config show engine=zero3 cluster.ranks=4 --deepspeed
    """
    from ftcluster.config.compose import compose, to_dict

    config = compose(overrides or [], config_dir=config_dir)
    if deepspeed:
        from ftcluster.training.sharding import deepspeed_of

        print_json(deepspeed_of(config))
    elif as_json:
        print_json(to_dict(config))
    else:
        print(commented_yaml(to_dict(config)))


@app.command("check")
def check_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A sweep file or an experiment.", show_default=False)],
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
) -> None:
    """Check a sweep file or an experiment: names, types, ranges, combinations. Lists all problems; exit code 2.

    ftcluster config check sweeps/demo.yaml
    ftcluster config check my_conf/experiment/mine.yaml model.path=./qwen
    """
    from ftcluster.config.sweepfile import find_sweep, is_sweep
    from ftcluster.config.yamlfile import read
    from ftcluster.sweep.specification import read_sweep

    path = file if file.is_file() else find_sweep(file)
    if is_sweep(read(path)):
        read_sweep(path, overrides or [], config_dir=config_dir)
    else:
        _check_experiment(path, overrides or [], config_dir)
    console().print(f"{path}: no problems found", soft_wrap=True)


def commented_yaml(config: dict[str, Any]) -> str:
    """A whole config as YAML that composes again, with the schema's comments beside the values."""
    lines = ["# @package _global_"]
    comments, keys = section_comments(), known_keys(RunConfig)
    for name, value in config.items():
        if name in comments:
            lines += ["", f"# {comments[name]}", f"{name}:"]
            lines += [_line(f"  {key}", item, keys[f"{name}.{key}"].comment) for key, item in value.items()]
        else:
            lines.append(_line(name, value, keys[name].comment))
    return "\n".join(lines)


def _line(label: str, value: Any, comment: str) -> str:
    flow = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1_000_000)
    text = f"{label}: {flow.removesuffix('...' + chr(10)).strip()}"
    return f"{text:<40} # {comment}" if comment else text


def _check_experiment(path: Path, overrides: list[str], config_dir: Path | None) -> None:
    from ftcluster.config.checks import check
    from ftcluster.config.compose import compose

    with tempfile.TemporaryDirectory(prefix="ftcluster-check-") as name:
        folder = Path(name)
        if config_dir:
            shutil.copytree(config_dir, folder, dirs_exist_ok=True)
        (folder / "experiment").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "experiment" / f"{path.stem}.yaml")
        try:
            check(compose([f"experiment={path.stem}", *overrides], config_dir=folder))
        except ConfigError as error:
            here = str(folder / "experiment" / f"{path.stem}.yaml")
            raise ConfigError([problem.replace(here, str(path)) for problem in error.problems]) from None
