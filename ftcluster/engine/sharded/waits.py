"""How long this process has waited in collectives, so that time of its own work can be told from time of waiting.

Ours and DeepSpeed's collectives all end in ``Work.wait``, which is therefore timed here, for the whole process. On a
GPU that call only queues the wait; what the host can see there is told in ``ranks.Ranks.total``.
"""

from __future__ import annotations

import time
from typing import Any

import torch.distributed as dist


class Waits:
    """Seconds of waiting so far."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def install(self) -> None:
        """Have every wait counted from now on; once is enough."""
        plain = dist.Work.wait
        if getattr(plain, "counts_waits", False):
            return

        def timed(work: Any, *arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return plain(work, *arguments)
            finally:
                self.seconds += time.perf_counter() - began

        timed.counts_waits = True  # type: ignore[attr-defined]
        dist.Work.wait = timed  # type: ignore[method-assign, assignment]


WAITS = Waits()  # of the process, as the method is
