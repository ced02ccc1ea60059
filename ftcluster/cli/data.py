"""``ftcluster data``: the verbs on training data, one per file."""

from __future__ import annotations

import typer

from ftcluster.cli.data_check import check
from ftcluster.cli.data_convert import convert
from ftcluster.cli.data_formats import formats
from ftcluster.cli.data_invert import invert
from ftcluster.cli.data_preview import preview
from ftcluster.cli.data_sample import sample
from ftcluster.cli.data_split import split

data = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Know what enters a run before any GPU is used: ftcluster data check rows.jsonl",
)
data.command("check")(check)
data.command("preview")(preview)
data.command("convert")(convert)
data.command("split")(split)
data.command("sample")(sample)
data.command("invert")(invert)
data.command("formats")(formats)
