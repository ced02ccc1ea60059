"""The metrics that a sweep can be judged by, and what can be weighed against them.

A sweep has one metric of held-out rows, by which trials are pruned and the best one is chosen. Further objectives may
stand beside it; what they are made of is measured, too, but says nothing about the answers of a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.config.suggest import did_you_mean

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "eval/loss": "nats per trained token on the validation rows",
        "eval/perplexity": "exp of eval/loss",
        "eval/exact_match": "share of validation rows whose generated answer equals the reference",
    }
)
COSTS: Mapping[str, str] = MappingProxyType(
    {
        "trial/parameters": "numbers that are trained, so the size of an adapter",
        "trial/tokens_per_s": "training tokens per second; not the same twice",
    }
)
_HIGHER = ("eval/exact_match", "trial/tokens_per_s")
_DIRECTIONS = ("minimize", "maximize")


def usual_direction(metric: str) -> str:
    """The one that makes sense."""
    return "maximize" if metric in _HIGHER else "minimize"


def objective_problems(sweep: SweepConfig, base: RunConfig) -> Iterator[str]:
    """What is wrong with a sweep's metrics."""
    yield from _metric(sweep, base)
    for metric, direction in sweep.also.items():
        known = (*METRICS, *COSTS)
        if metric not in known:
            yield f"metric={metric} does not exist.{did_you_mean(metric, known)} Known: {', '.join(known)}."
        elif direction not in _DIRECTIONS or direction != usual_direction(metric):
            yield f"direction={direction} would look for the worst {metric}; use {usual_direction(metric)}."
        if metric == "eval/exact_match" and not base.evaluation.generate:
            yield _GENERATE
    if sweep.also and sweep.pruner.name != "none":
        yield (
            f"pruner.name={sweep.pruner.name} judges by one metric, and would stop trials that are best by another; "
            "use pruner.name=none with several."
        )


def _metric(sweep: SweepConfig, base: RunConfig) -> Iterator[str]:
    metric = sweep.metric
    if metric.startswith("train/"):
        yield (
            f"metric={metric} is measured on rows a trial trains on: the best value says who memorised most; "
            "never select on training loss. Use metric=eval/loss."
        )
        return
    if metric in COSTS:
        yield f"metric={metric} says nothing about a model's answers; name it second, as in [eval/loss, {metric}]."
        return
    if metric not in METRICS:
        yield f"metric={metric} does not exist.{did_you_mean(metric, METRICS)} Known: {', '.join(METRICS)}."
        return
    if metric == "eval/exact_match" and not base.evaluation.generate:
        yield _GENERATE
    wanted = usual_direction(metric)
    if sweep.direction in _DIRECTIONS and sweep.direction != wanted:
        yield f"direction={sweep.direction} would select the worst trial by {metric}; use direction={wanted}."
    if not base.data.validation and base.data.validation_fraction == 0:
        yield f"metric={metric} needs held-out rows; set data.validation or data.validation_fraction above 0."


_GENERATE = "metric=eval/exact_match needs generated answers; set evaluation=generate or evaluation.generate=64."
