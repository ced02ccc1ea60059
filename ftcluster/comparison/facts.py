"""What a reader needs to trust or repeat a comparison: data, base, code, machine, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcluster.comparison.findings import Comparison, Contender
from ftcluster.config.grammar import Interval, parse_space
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.folder import RunFolder
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.data.prepared.report import Report
from ftcluster.evaluation.bootstrap import RESAMPLES
from ftcluster.tracking.records import SPOOL, read_lines

_WIDE = 30  # a largest value this many times the smallest is read more easily on a logarithmic axis


def log_keys(space: Mapping[str, Any], contenders: Sequence[Contender]) -> frozenset[str]:
    """Parameters to show on a logarithmic axis: those searched so, and positive ones over a wide range."""
    searched = {key for key, d in parse_space(space).items() if isinstance(d, Interval) and d.log} if space else set()
    keys = dict.fromkeys(key for contender in contenders for key in contender.parameters)
    wide = {key for key in keys if _is_wide([contender.parameters.get(key) for contender in contenders])}
    return frozenset(searched | wide)


def _is_wide(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(numbers) == len(values) > 1 and min(numbers) > 0 and max(numbers) >= _WIDE * min(numbers)


def facts_of(comparison: Comparison, prepared: PreparedData, configs: Mapping[str, RunConfig]) -> dict[str, str]:
    """Label -> text, in the order in which they are shown."""
    first = comparison.contenders[0]
    tags = recorded_tags(RunFolder(Path(first.folder)).path)
    facts = {"prepared data": prepared.folder.name, "data files": ", ".join(prepared.report.formats)}
    facts |= _rows(prepared.report)
    facts["base model"] = ", ".join(dict.fromkeys(config.model.path for config in configs.values()))
    facts |= _measured(comparison)
    commit = tags.get("git.commit", "")
    facts["code"] = commit + (" with uncommitted changes" if tags.get("git.dirty") == "true" else "")
    facts["versions"] = ", ".join(
        f"{key.removeprefix('version.')} {text}" for key, text in tags.items() if key.startswith("version.")
    )
    facts["machine"] = ", ".join(tags[key] for key in ("host", "platform", "gpu") if tags.get(key))
    facts["folders"] = str(Path(first.folder).parent)
    return {label: text for label, text in facts.items() if text}


def _rows(report: Report) -> dict[str, str]:
    found = {
        f"{split} rows": f"{side.rows:,} ({side.tokens:,} tokens, {side.trained_tokens:,} of them trained on)"
        for split, side in report.splits.items()
    }
    dropped = "; ".join(f"{d.rows:,} {d.reason}" for d in report.dropped)
    return found | {"rows left out": dropped or "none"}


def _measured(comparison: Comparison) -> dict[str, str]:
    records = [c.record for c in comparison.tested if c.record] + ([comparison.base] if comparison.base else [])
    if not records:
        return {}
    rows, answers = len(records[0].losses), len(records[0].answers)
    return {
        "measured on": f"{rows} test rows" + (f", greedy answers to {answers} of them" if answers else ""),
        "intervals": f"95 %, paired bootstrap over test rows, {RESAMPLES:,} resamples, each comparison by itself",
        "ranked by": f"{comparison.metric} on the validation rows, {comparison.direction}d",
    }


def recorded_tags(folder: Path) -> dict[str, str]:
    """The tags a run recorded about itself, the newest of each name."""
    found: dict[str, str] = {}
    for line in read_lines(folder / SPOOL):
        values = line.record.get("values")
        if line.record.get("kind") == "tags" and isinstance(values, dict):
            found |= {str(key): str(value) for key, value in values.items()}
    return found
