"""A trial as a value: what it is, where it stands, what it reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

# What a trial's values hold beside those of its sweep's space.
NAMED = "named"  # the name under which its sweep says that it is always trained
SEED = "seed"  # its own, where each point is trained with several


class RunState(StrEnum):
    """States of a run (a training, a trial or a sweep).

    waiting <-> running <-> paused -> finished | pruned | failed | killed

    ``interrupted`` is a run whose process vanished or was stopped by its user: it can be resumed.
    """

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"
    KILLED = "killed"

    @property
    def ended(self) -> bool:
        """True for the four states that are never left again."""
        return self in (RunState.FINISHED, RunState.PRUNED, RunState.FAILED, RunState.KILLED)


@dataclass(frozen=True)
class TrialReport:
    """What a trial says at a rung (or at its end): held-out metrics at one step."""

    name: str
    step: int
    metrics: Mapping[str, float]
    tokens: int = 0  # tokens read by training so far
    seconds: float = 0.0  # training time so far, evaluation and saving left out
