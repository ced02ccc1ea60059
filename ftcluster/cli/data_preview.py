"""``ftcluster data preview``: rows as the model will see them, with what is trained in colour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ftcluster.cli.arguments import ConfigDir, DataWords, Home, Json
from ftcluster.cli.data_check import as_words
from ftcluster.cli.output import console, notices, print_json
from ftcluster.cli.progress import TrainingBar
from ftcluster.errors import UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from ftcluster.config.schema import RunConfig
    from ftcluster.data.prepared.preview import Shown, Stretch

_OPEN, _CLOSE = "〔", "〕"
# Characters that would steer the terminal are shown as pictures of themselves.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_VISIBLE |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def preview(
    overrides: DataWords = None,
    count: Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many rows.")] = 3,
    row: Annotated[
        str | None, typer.Option(metavar="FILE:LINE|N", help="This row, or the Nth of its split.", show_default=False)
    ] = None,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Rows of which side.")] = "train",
    config_dir: ConfigDir = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show rows as the model will see them: which tokens are trained, what is cut, and why a row is left out.

    [bold]Examples[/bold]

      ftcluster data preview rows.jsonl model.path=./qwen

      ftcluster data preview rows.jsonl model.path=./llama data.template=chatml objective.loss_on=last_answer -n 10

      ftcluster data preview rows.jsonl model.path=./qwen --row rows.jsonl:17

    Takes the words of ftcluster train. What is trained is green, or stands between 〔 and 〕 where there is no
    colour; the end of turn must be part of it, or the model never learns to stop. Nothing is written.
    """
    from ftcluster.config.compose import resolve_home
    from ftcluster.data.prepared.preview import Wanted
    from ftcluster.data.prepared.preview import preview as rows_of
    from ftcluster.data.prepared.settings import data_settings
    from ftcluster.training.bench import checked_tokenizer

    wanted = Wanted.row(row, split) if row is not None else Wanted(split, count=count)
    config = _config(overrides or [], home, config_dir)
    tokenizer = checked_tokenizer(config)
    settings = data_settings(config, resolve_home(config) / "downloads")
    shown = rows_of(settings, tokenizer, wanted)
    if as_json:
        print_json(list(shown))
        return
    for one in shown:
        _show(one)


def _config(words: list[str], home: Path | None, config_dir: Path | None) -> RunConfig:
    from ftcluster.config.checks import check
    from ftcluster.config.compose import compose
    from ftcluster.demo.world import provide

    if not words:
        raise UsageError(
            "nothing says what to show",
            remedy="name files and a model, such as ftcluster data preview rows.jsonl model.path=./qwen, or give the "
            "words of ftcluster train",
        )
    config = compose([*as_words(words), *([f"home={home}"] if home else [])], config_dir=config_dir)
    check(config)
    with TrainingBar() as bar:
        provide(config, notices().print, bar.observe)
    return config


def _show(row: Shown) -> None:
    from rich.text import Text

    place = f"{row.file}:{row.line}"
    facts = [f"row {row.number} of {row.split}" if row.split else "unreadable", row.format, row.source]
    facts += [f"{row.tokens} tokens, {row.trained_tokens} trained"] if row.tokens else []
    out = console()
    out.print(Text.assemble((place, "bold"), "  " + "  ".join(filter(None, facts))), soft_wrap=True)
    if row.dropped:
        out.print(Text(f"left out: {row.dropped}", "red"), soft_wrap=True)
    for cut in row.cuts:
        out.print(Text(cut, "yellow"), soft_wrap=True)
    for number, stretches in enumerate(row.documents, 1):
        if len(row.documents) > 1:
            out.print(Text(f"part {number} of {len(row.documents)}", "bold"))
        out.print(_coloured(stretches) if out.color_system else Text(_marked(stretches)), soft_wrap=True)
    out.print()


def _coloured(stretches: tuple[Stretch, ...]) -> Text:
    from rich.text import Text

    text = Text()
    for stretch in stretches:
        style = "green" if stretch.trained else "bright_black"
        text.append(stretch.text.translate(_VISIBLE), f"{style} reverse" if stretch.control else style)
    return text


def _marked(stretches: tuple[Stretch, ...]) -> str:
    text, inside = "", False
    for stretch in stretches:
        text += _OPEN if stretch.trained and not inside else _CLOSE if inside and not stretch.trained else ""
        text += stretch.text.translate(_VISIBLE)
        inside = stretch.trained
    return text + (_CLOSE if inside else "")
