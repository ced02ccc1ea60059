"""Shell completion of override words: ``model=<TAB>``, ``optim.<TAB>``, ``engine.device=<TAB>``, sweep names.

Bash alone takes ``model=ti`` for three words and wants back what follows the equals sign; ``answer_bash``
stands between it and the rest, which sees whole words.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from ftcluster.config.catalog import describe, groups, known_keys
from ftcluster.config.environment import bash_completion, set_bash_completion, sweeps_folder


def complete_override(incomplete: str) -> list[tuple[str, str]]:
    """Words that may follow what was typed, each with a description for shells that show one."""
    key, equals, _ = incomplete.partition("=")
    found = _values(key) if equals else _keys(incomplete)
    return [(word, text) for word, text in found if word.startswith(incomplete)]


def complete_sweep(incomplete: str) -> list[tuple[str, str]]:
    """Shipped sweeps by name and YAML files and folders by path."""
    shipped = [(file.stem, "shipped") for file in sorted(sweeps_folder().glob("*.yaml"))]
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [(f"{entry}/", "folder") for entry in entries if entry.is_dir()]
    paths += [(str(entry), "sweep file") for entry in entries if entry.suffix in (".yaml", ".yml")]
    return [(word, text) for word, text in shipped + paths if word.startswith(incomplete)]


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
    from ftcluster.config.checks import CHOICES, METRICS, SWEEP_CHOICES

    if key in groups():
        yield from ((f"{key}={option}", describe(key, option)) for option in groups()[key])
    elif key == "metric":
        yield from ((f"{key}={name}", text) for name, text in METRICS.items())
    elif (known := known_keys().get(key)) and known.type is bool:
        yield from ((f"{key}={value}", known.comment) for value in ("true", "false"))
    else:
        yield from ((f"{key}={value}", "") for value in {**CHOICES, **SWEEP_CHOICES}.get(key, ()))
