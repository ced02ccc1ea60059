"""What a sampler is told about a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftcluster.contracts.trial import RunState


@dataclass(frozen=True)
class Observation:
    """What is known about one trial of the sweep, or of an earlier one.

    ``value`` is the newest held-out metric, at rung ``rung``; None before the first; ``others`` are those of further
    objectives. A trial that failed or reported NaN counts as worst, one without a value yet as a point not to crowd.
    """

    number: int
    point: Mapping[str, Any]
    state: RunState
    value: float | None = None
    rung: int = 0
    others: tuple[float, ...] = ()

    @property
    def failed(self) -> bool:
        return self.state in (RunState.FAILED, RunState.KILLED)

    @property
    def useful(self) -> bool:
        """Whether its values are numbers that can be compared."""
        values = () if self.value is None else (self.value, *self.others)
        return bool(values) and all(map(math.isfinite, values)) and not self.failed

    def __post_init__(self) -> None:
        # Of one that was written down as JSON.
        object.__setattr__(self, "state", RunState(self.state))
        object.__setattr__(self, "others", tuple(self.others))
