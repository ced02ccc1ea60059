"""Runs as flat records, one key per fact, metric and setting: which of them, in which order.

name kind sweep number state reason step rung       what the ledger says
age_s took_s created_at started_at ended_at         seconds, and unix seconds
folder mlflow_run_id
eval/loss, eval/exact_match, ...                     metrics of the newest report
optim.lr, adapter.rank, ...                          the config, a trial's own values included
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ftcluster.comparison.findings import flat_config, value_text
from ftcluster.config.expression import read_expression
from ftcluster.config.suggest import did_you_mean
from ftcluster.contracts.trial import RunState
from ftcluster.errors import ConfigError, UsageError
from ftcluster.ledger.schema import RunRow

Record = dict[str, Any]
# A text in quotes, or a word: key.of.config, metric/name, state.
_PART = re.compile(r""""[^"]*"|'[^']*'|[A-Za-z_][\w.]*(?:/[A-Za-z_]\w*)*""")
_KIND = re.compile(r"\bkind\s*[!=]=\s*$")
_TEXTS = {*RunState, "trial", "train"}


def record(row: RunRow, now: float) -> Record:
    """All there is to know of a run, without reading its folder."""
    end = row.ended_at or (now if row.state in (RunState.RUNNING, RunState.PAUSED) else None)
    return {
        "name": row.name,
        "kind": row.kind,
        "sweep": row.parent,
        "number": row.number,
        "state": row.state.value,
        "reason": row.reason,
        "step": row.step,
        "rung": row.rung,
        "age_s": round(now - row.created_at, 1),
        "took_s": round(end - row.started_at, 1) if end and row.started_at else None,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "folder": row.folder,
        "mlflow_run_id": row.mlflow_run_id,
        **row.metrics,
        **settings_of(row),
    }


def settings_of(row: RunRow) -> Record:
    """The config of a run by dotted keys; of a sweep what its trials share, of a trial with its own values."""
    if row.kind == "sweep":
        swept = row.config.get("spec", {}).get("space", {})
        return {key: value for key, value in flat_config(row.config.get("base", {})).items() if key not in swept}
    return {**flat_config(row.config), **row.overrides}


def filtered(records: Sequence[Record], text: str) -> list[Record]:
    """Those of which an expression is true: ``eval/loss < 2 and state == finished and adapter.rank >= 8``.

    A key that a run does not have is neither equal to anything, nor less or more.

    Raises:
        ConfigError: it cannot be read, or names a key that no run has; all problems, with the nearest keys.
    """
    known = _keys(records)
    dotted = {key.replace("/", "."): key for key in known}
    try:
        expression = read_expression(_readable(text, known), dotted)
    except ConfigError as error:
        problems = [_in_our_words(problem, dotted) for problem in error.problems]
        raise ConfigError(problems, where="--filter", remedy=_remedy(known)) from None
    return [one for one in records if expression.holds(_Values(one, dotted))]


class _Values(Mapping[str, Any]):
    """A record as an expression sees it: what is missing is not a number."""

    def __init__(self, one: Record, dotted: Mapping[str, str]) -> None:
        self._record, self._dotted = one, dotted

    def __getitem__(self, key: str) -> Any:
        value = self._record.get(self._dotted[key])
        return math.nan if value is None else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._dotted)

    def __len__(self) -> int:
        return len(self._dotted)


def _readable(text: str, known: Collection[str]) -> str:
    """Metrics with a dot for their slash, which is division else, and states in quotes."""

    def part(found: re.Match[str]) -> str:
        word = found[0]
        of_kind = word == "sweep" and _KIND.search(text[: found.start()])
        if of_kind or (word in _TEXTS and word not in known):
            return f'"{word}"'
        return word if word[0] in "\"'" else word.replace("/", ".")

    return _PART.sub(part, text)


def _in_our_words(problem: str, dotted: Mapping[str, str]) -> str:
    for ours, theirs in dotted.items():
        if "/" in theirs:
            problem = problem.replace(ours, theirs)
    return problem.replace("is not a config key", "is not a key of these runs")


def ordered(records: Sequence[Record], key: str, *, reverse: bool = False) -> list[Record]:
    """By a key, the smallest first; those that do not have it are last either way.

    Raises:
        UsageError: no run has it.
    """
    check_keys(records, [key], "--sort")
    present = [one for one in records if _sortable(one.get(key)) is not None]
    absent = [one for one in records if _sortable(one.get(key)) is None]
    return sorted(present, key=lambda one: _sortable(one[key]) or (0, 0.0, ""), reverse=reverse) + absent


def _sortable(value: Any) -> tuple[int, float, str] | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, value_text(value)


def check_keys(records: Sequence[Record], keys: Sequence[str], where: str) -> None:
    """Refuse keys that none of these runs has.

    Raises:
        UsageError: all of them, with the nearest there are.
    """
    known = _keys(records)
    if wrong := [key for key in keys if key not in known]:
        told = " ".join(f"{key} is not a key of these runs.{did_you_mean(key, known)}" for key in wrong)
        raise UsageError(told, where=where, remedy=_remedy(known))


def _keys(records: Sequence[Record]) -> dict[str, None]:
    return dict.fromkeys(key for one in records for key in one)


def _remedy(known: Collection[str]) -> str:
    shown = ", ".join(key for key in known if "." not in key)
    return f"keys are {shown}, and those of the config, such as optim.lr (ftcluster config show lists them)"
