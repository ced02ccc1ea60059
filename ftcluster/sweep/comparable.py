"""Whether trials of a sweep over models, data or objectives can be judged by one metric.

They can if they are asked the same: eval/loss and eval/perplexity are per token, so the held-out rows must be the same
tokens with the same of them trained; eval/exact_match compares answers, so the same questions and references will do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ftcluster.config.checks import check_files
from ftcluster.config.compose import override
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.data.prepared.held_out import questions_hash, tokens_hash
from ftcluster.errors import ConfigError
from ftcluster.sweep.bundles import named_values
from ftcluster.sweep.space import Space, levels, override_words
from ftcluster.training.bench import prepare_data

_SECTIONS = ("model", "data", "objective")
_MOST = 64  # combinations of models, data and objectives that are prepared before a sweep


def check_comparable(
    spec: SweepConfig,
    space: Space,
    base: RunConfig,
    data: PreparedData,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Prepare what the trials of a sweep read, and refuse a metric that would not mean the same for all of them.

    Raises:
        ConfigError: naming what differs.
        DataError: the data of some trial cannot be used.
        ModelError: its model cannot be used.
    """
    sets = list(_sets(spec, space))
    if len(sets) > _MOST:
        raise ConfigError(
            [f"the space has {len(sets)} combinations of models, data and objectives; {_MOST} are the most."],
            where="space",
        )
    wanted = held_out(data, spec.metric) if sets else ""
    problems: list[str] = []
    for values in sets:
        words = override_words(values)
        config = override(base, words)
        check_files(config)
        if held_out(prepare_data(config, progress), spec.metric) != wanted:
            problems.append(
                f"{' '.join(words)}: {spec.metric} would be measured on {_WHAT[spec.metric]} than in the base."
            )
    if problems:
        raise ConfigError(problems, where="space", remedy=_REMEDY)


_WHAT = {
    "eval/loss": "other rows or tokens",
    "eval/perplexity": "other rows or tokens",
    "eval/exact_match": "other questions",
}
_REMEDY = (
    "give data.validation=[rows.jsonl] for all of them; models with different tokenizers can be compared by "
    "metric=eval/exact_match only"
)


def held_out(data: PreparedData, metric: str) -> str:
    """A hash of what a metric is measured on; equal ones can be compared."""
    return questions_hash(data, "validation") if metric == "eval/exact_match" else tokens_hash(data.validation)


def _sets(spec: SweepConfig, space: Space) -> Iterator[Mapping[str, Any]]:
    """What trials set of models, data and objectives, each combination once; the base's own is left out."""
    keys = [key for key in space if any(_matters(name) for name in space.sets(key) or {key})]
    each = [levels(space[key]) or (space.base.get(key),) for key in keys]
    points = [dict(zip(keys, values, strict=True)) for values in itertools.product(*each)] if keys else []
    named = [{**space.base, **named_values(spec, name)} for name in spec.always]
    own = {key: value for key, value in space.base.items() if _matters(key)}
    seen = [own]
    for values in [*(space.config_values(point) for point in points), *named]:
        found = {key: value for key, value in values.items() if _matters(key) and key in own}
        if found not in seen:
            seen.append(found)
            yield {key: value for key, value in found.items() if value != own[key]}


def _matters(key: str) -> bool:
    return key.split(".")[0] in _SECTIONS
