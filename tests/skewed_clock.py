"""A clock that is wrong, for ``programs.start``: ``before=("skewed_clock", "shift", [3600])``."""

from __future__ import annotations

import time

from ftcluster.ledger.store import Ledger


def shift(seconds: float) -> None:
    """Have this process see another time of day; how fast time passes is as it was."""
    right = time.time
    time.time = lambda: right() + seconds
    Ledger.open.__func__.__kwdefaults__["clock"] = time.time  # which it took when it was imported
