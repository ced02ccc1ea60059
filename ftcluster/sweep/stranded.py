"""How long a sweep waits for nodes, where none has room for any trial and nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ftcluster.errors import UsageError

NO_ROOM = UsageError(
    "no node of the cluster has room for any trial",
    where="cluster",
    remedy="add nodes or mend GPUs (`ftcluster cluster status` tells of them)",
)
_NODES = 600.0  # seconds


@dataclass
class Stranded:
    """Since when no node has room for any trial."""

    tell: Callable[[str], None]
    clock: Callable[[], float]
    _since: float | None = None

    def too_long(self, *, stranded: bool) -> bool:
        """Whether it has been so for longer than anybody would wait."""
        if not stranded:
            self._since = None
        elif self._since is None:
            self._since = self.clock()
            self.tell("no node has room for any trial now; waiting for one to join")
        return self._since is not None and self.clock() - self._since > _NODES
