"""What ranks tell of themselves, whatever they train."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ftcluster.engine.sharded.pace import Stint
from ftcluster.engine.sharded.ranks import Ranks


class Reporting:
    """Part of a replica; all ranks must call each method."""

    _ranks: Ranks

    def telemetry(self, measure: Callable[[], Mapping[str, float]]) -> list[dict[str, float]]:
        """What each rank measures of itself, in their order."""
        return self._ranks.gather(dict(measure()))

    def stints(self) -> list[list[Stint]]:
        """Of each rank's newest passes, in their order."""
        return self._ranks.gather(list(self._ranks.stints))
