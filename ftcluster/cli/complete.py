"""Shell completion of override words: ``model=<TAB>``, ``optim.<TAB>``, ``engine.device=<TAB>``, sweep names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftcluster.config.catalog import describe, groups, known_keys
from ftcluster.config.environment import sweeps_folder


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
