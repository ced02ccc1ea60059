"""Shell completion: override words (``model=<TAB>``, ``optim.<TAB>``, ``engine.device=<TAB>``), sweeps, names of runs.

Bash alone takes ``model=ti`` for three words and wants back what follows the equals sign; ``answer_bash``
stands between it and the rest, which sees whole words.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from ftcluster.config.catalog import describe, groups, known_keys
from ftcluster.config.environment import bash_completion, default_home, set_bash_completion, sweeps_folder
from ftcluster.config.locations import kind_of
from ftcluster.ledger.listing import names_in


def complete_override(incomplete: str) -> list[tuple[str, str]]:
    """Words that may follow what was typed, each with a description for shells that show one."""
    key, equals, _ = incomplete.partition("=")
    found = _values(key) if equals else _keys(incomplete)
    return [(word, text) for word, text in found if word.startswith(incomplete)]


def complete_sweep(incomplete: str) -> list[tuple[str, str]]:
    """Shipped sweeps by name and YAML files and folders by path."""
    shipped = [(file.stem, "shipped") for file in sorted(sweeps_folder().glob("*.yaml"))]
    paths = _paths(incomplete, lambda path: path.suffix in (".yaml", ".yml"), "sweep file")
    return [(word, text) for word, text in shipped if word.startswith(incomplete)] + paths


def complete_run(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Runs and sweeps of the home that was named so far, else of the default one."""
    return names_in(Path(ctx.params.get("home") or default_home()), incomplete)


def complete_data(incomplete: str) -> list[tuple[str, str]]:
    """Data files and folders by path, and override words."""
    return [*complete_data_file(incomplete), *complete_override(incomplete)]


def complete_data_file(incomplete: str) -> list[tuple[str, str]]:
    """Data files and folders by path."""
    return _paths(incomplete, lambda path: bool(kind_of(path)), "data file")


def complete_command(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """A verb, and behind it what most verbs take: sweeps behind ``sweep``, override words."""
    from ftcluster.cli.app import VERBS

    if not (before := ctx.params.get("command")):
        return [(name, verb.summary) for name, verb in VERBS.items() if name.startswith(incomplete)]
    return [*(complete_sweep(incomplete) if before[0] == "sweep" else ()), *complete_override(incomplete)]


def complete_format(incomplete: str) -> list[str]:
    """Formats of data files."""
    from ftcluster.config.checks import CHOICES

    return [name for name in CHOICES["data.format"] if name.startswith(incomplete)]


def answer_bash(complete: Callable[[], int]) -> int:
    """Run ``complete``, which prints completions; where bash asks, put its words together before and trim after."""
    if (asked := bash_completion()) is None:
        return complete()
    words, position = _rejoined(*asked)
    set_bash_completion(words, position)
    current = words[position] if position < len(words) else ""
    answers = io.StringIO()
    with contextlib.redirect_stdout(answers):
        code = complete()
    for answer in answers.getvalue().splitlines():
        print(answer[current.rfind("=") + 1 :])
    return code


def _paths(incomplete: str, wanted: Callable[[Path], bool], text: str) -> list[tuple[str, str]]:
    """Folders, and files that are wanted, that begin like this."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [(f"{entry}/", "folder") for entry in entries if entry.is_dir()]
    paths += [(str(entry), text) for entry in entries if entry.is_file() and wanted(entry)]
    return [(path, what) for path, what in paths if path.startswith(incomplete)]


def _rejoined(words: list[str], position: int) -> tuple[list[str], int]:
    whole: list[str] = []
    cursor = len(words)
    for index, word in enumerate(words):
        if whole and (word == "=" or whole[-1].endswith("=")):
            whole[-1] += word
        else:
            whole.append(word)
        if index == position:
            cursor = len(whole) - 1
    return whole, min(cursor, len(whole))


def _keys(incomplete: str) -> Iterator[tuple[str, str]]:
    if "." not in incomplete:
        yield from ((f"{group}=", "choose one") for group in groups())
        yield from ((f"{section}.", "single keys") for section in groups() if section != "experiment")
    for key, known in known_keys().items():
        if "." in incomplete or "." not in key:
            yield f"{key}=", known.comment


def _values(key: str) -> Iterator[tuple[str, str]]:
    from ftcluster.config.checks import CHOICES, SWEEP_CHOICES
    from ftcluster.config.objectives import METRICS

    if key in groups():
        yield from ((f"{key}={option}", describe(key, option)) for option in groups()[key])
    elif key == "metric":
        yield from ((f"{key}={name}", text) for name, text in METRICS.items())
    elif (known := known_keys().get(key)) and known.type is bool:
        yield from ((f"{key}={value}", known.comment) for value in ("true", "false"))
    else:
        yield from ((f"{key}={value}", "") for value in {**CHOICES, **SWEEP_CHOICES}.get(key, ()))
