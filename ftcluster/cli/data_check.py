"""``ftcluster data check``: the report on a data set, before any GPU is used."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftcluster.cli.arguments import ConfigDir, DataWords, Force, Home, Json
from ftcluster.cli.data_files import show_dropped, tell_next
from ftcluster.cli.data_report import plain_report, show_report
from ftcluster.cli.output import console, notices, print_json
from ftcluster.cli.progress import RowsBar, TrainingBar
from ftcluster.errors import DataError, UsageError

if TYPE_CHECKING:
    from ftcluster.config.schema import RunConfig
    from ftcluster.data.audit import Judgement
    from ftcluster.data.audit.repair import Cleaned
    from ftcluster.data.prepared.report import Report

_OVERRIDE = re.compile(r"[A-Za-z_][\w.-]*=")
_MODEL_WORDS = ("model=", "model.path=", "experiment=")


def check(
    overrides: DataWords = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as a page.", dir_okay=False)
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write a cleaned copy, and say what was done.")
    ] = None,
    each_row: Annotated[bool, typer.Option("--each-row", help="With --fix: name every row it changed.")] = False,
    force: Force = False,
    config_dir: ConfigDir = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Report on training data: what is used and left out, and why; lengths, copies, damage, overlap, predicted steps.

    [bold]Examples[/bold]

      ftcluster data check rows.jsonl

      ftcluster data check model=folder model.path=./qwen data.train=\\[rows.jsonl] --html data.html

      ftcluster data check rows.jsonl --fix clean.jsonl

    Takes the words of ftcluster train, and prepares what that would use. Files alone are looked at without a model:
    everything but tokens. Exit code 3 means that a run would be refused; data.warn and data.refuse set the shares:
    'data.refuse={markers: 0.01}'.
    """
    config = _config(overrides or [], home, config_dir)
    if fix is not None:
        _fix(config, fix, each_row=each_row, force=force, as_json=as_json)
        return
    report, facts, problem = _report(config)
    judgements = _judge(report, config)
    if html is not None:
        _write_page(html, report, judgements, config, facts)
    if as_json:
        print_json(plain_report(report, judgements, facts))
    else:
        show_report(report, judgements, facts)
        if html is not None:
            console().print(f"\nreport: {html}", markup=False, soft_wrap=True)
        if not config.model.path:
            notices().print(
                "no model was named, so nothing is said about tokens: add model.path=FOLDER", soft_wrap=True
            )
    if problem:
        raise problem
    if any(judgement.refused for judgement in judgements):
        raise typer.Exit(DataError.exit_code)


def _config(words: Sequence[str], home: Path | None, config_dir: Path | None) -> RunConfig:
    from ftcluster.config.checks import check as check_all
    from ftcluster.config.checks import check_data
    from ftcluster.config.compose import compose

    if not words:
        raise UsageError(
            "nothing says what to check",
            remedy="name files, such as ftcluster data check rows.jsonl, or give the words of ftcluster train",
        )
    config = compose([*as_words(words), *([f"home={home}"] if home else [])], config_dir=config_dir)
    (check_all if config.model.path else check_data)(config)
    named = (config.model.path, *config.data.train, *config.data.validation, *config.data.test)
    if not all(Path(name).exists() for name in named if name):  # else nothing of the demo can be missing
        from ftcluster.demo.world import provide  # imports torch

        with TrainingBar() as bar:
            provide(config, notices().print, bar.observe)
    return config


def as_words(words: Sequence[str]) -> list[str]:
    """Override words, in which files that are named alone have become data.train; no model, unless one is named."""
    from ftcluster.config.locations import is_remote

    files = [word for word in words if Path(word).exists() or (is_remote(word) and not _OVERRIDE.match(word))]
    others = [word for word in words if word not in files]
    lost = [word for word in others if not _OVERRIDE.match(word)]
    if lost:
        raise UsageError("is neither a file nor key=value", where=lost[0], remedy="check its name and folder")
    chosen = [] if any(word.startswith(_MODEL_WORDS) for word in others) else ["model=folder"]
    if not files:
        return [*chosen, *others]
    data = [] if any(word.startswith("data=") for word in others) else ["data=jsonl"]
    return [*chosen, *data, *others, f"data.train={json.dumps(files, ensure_ascii=False)}"]


def _report(config: RunConfig) -> tuple[Report, dict[str, str], DataError | None]:
    """The report, what training on it would be like, and why it cannot be trained on."""
    from ftcluster.config.compose import resolve_home
    from ftcluster.config.thresholds import NEVER, REFUSE
    from ftcluster.data.audit.survey import survey
    from ftcluster.data.prepared.settings import data_settings

    problem: DataError | None = None
    if config.model.path:
        from ftcluster.training.bench import prepare_data  # imports torch
        from ftcluster.training.session import plan, training_facts

        lenient = replace(config, data=replace(config.data, refuse=dict.fromkeys(REFUSE, NEVER)))
        try:
            with RowsBar("preparing data") as bar:
                prepared = prepare_data(lenient, bar.update)
            return prepared.report, training_facts(plan(config, prepared), prepared.report), None
        except DataError as error:
            problem = error  # too many bad rows, an empty side: what can be said without tokens shows why
    with RowsBar("looking at rows") as bar:
        return survey(data_settings(config, resolve_home(config) / "downloads"), bar.update), {}, problem


def _judge(report: Report, config: RunConfig) -> list[Judgement]:
    from ftcluster.data.audit import judge

    refuse = {**config.data.refuse, "unusable": config.data.max_bad_rows}
    return judge(report, config.data.warn, refuse)


def _write_page(
    path: Path, report: Report, judgements: Sequence[Judgement], config: RunConfig, facts: dict[str, str]
) -> None:
    from ftcluster.data.audit.page import Page, write_page

    write_page(path, report, judgements, Page.of(config.data, report, facts))


def _fix(config: RunConfig, out: Path, *, each_row: bool, force: bool, as_json: bool) -> None:
    from ftcluster.config.compose import resolve_home
    from ftcluster.data.audit.repair import clean
    from ftcluster.data.prepared.settings import data_settings

    settings = data_settings(config, resolve_home(config) / "downloads")
    files = [file for file in settings.files() if file.side is None]
    changes: list[dict[str, str]] = []

    def tell(place: str, done: str) -> None:
        changes.append({"row": place, "done": done})
        if not as_json:
            console().print(f"{place}: {done}", markup=False, soft_wrap=True)

    with RowsBar("cleaning") as bar:
        done = clean(files, out, force=force, tell=tell if each_row else None, progress=bar.update)
    if as_json:
        print_json({"cleaned": done, **({"changes": changes} if each_row else {})})
        return
    _show_cleaned(done)
    tell_next(["ftcluster", "data", "check", str(out)])


def _show_cleaned(done: Cleaned) -> None:
    console().print(f"{done.rows:,} of {done.of:,} rows are in {done.file}", markup=False, soft_wrap=True)
    show_dropped(done.repaired, "repaired")
    show_dropped(done.removed, "left out")
    if not done.repaired and not done.removed:
        console().print("nothing had to be repaired or left out")
