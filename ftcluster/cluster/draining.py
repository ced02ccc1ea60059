"""Nodes that have been told to leave a cluster, such as machines of a spot market.

A node that drains keeps what runs on it, gets nothing new, and ends once nothing runs there any more; its owner may
take it away at the deadline. Ray keeps these notices and this module reads them; what to do about them is the
business of whoever placed the work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_PATIENCE = 5.0  # seconds for the head to answer; a look at the notices must not hold up whoever looks


def draining_nodes(clock: Callable[[], float] = time.time) -> dict[str, float]:
    """Seconds left for every draining node of the connected cluster, by node id; infinite without a deadline.

    A deadline that has passed counts as 0. Nothing is known through a Ray client, nor from a head that does not answer.
    """
    import ray
    from ray._private.worker import global_worker
    from ray.util.client import ray as client

    if client.is_connected() or not ray.is_initialized():
        return {}
    try:
        deadlines: dict[str, int] = global_worker.gcs_client.get_draining_nodes(timeout=_PATIENCE)
    except (ray.exceptions.RayError, TimeoutError):
        return {}
    now = clock()
    return {
        node: max(milliseconds / 1000 - now, 0.0) if milliseconds else math.inf
        for node, milliseconds in deadlines.items()
    }
