"""A measured value, the same record for MLflow, pruner, live table, comparison and gates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """``name`` such as ``eval/loss``; ``step`` counts optimizer steps; the timestamp is fixed at birth.

    MLflow takes the same (name, step, timestamp, value) twice as one point, so a record may be delivered
    again after an outage without harm, as long as the timestamp is never renewed.
    """

    name: str
    value: float
    step: int
    timestamp_ms: int
