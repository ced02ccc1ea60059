"""How long a training or a sweep goes on trying: full disks are emptied, and network file systems come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ftcluster.errors import StoreError
from ftcluster.units import format_seconds

_BREATH = 5.0  # seconds before a storage that failed is tried again


@dataclass
class Patience:
    """``seconds`` of it, counted for each user of the storage from its first failure to its next success."""

    seconds: float
    tell: Callable[[str], None]
    clock: Callable[[], float]
    _since: dict[str, float] = field(default_factory=dict)
    _again: float = 0.0

    @property
    def resting(self) -> bool:
        """Whether it is too early to try again."""
        return self.clock() < self._again

    def worked(self, user: str) -> None:
        """Somebody's storage is in order."""
        self._since.pop(user, None)

    def failed(self, user: str, error: StoreError) -> bool:
        """Somebody's storage is not; whether patience is at its end."""
        now = self.clock()
        if not self._since and self.seconds:
            self.tell(f"{error}\n  trying again for {format_seconds(self.seconds)}")
        self._again = now + min(_BREATH, self.seconds)
        return now - self._since.setdefault(user, now) >= self.seconds
