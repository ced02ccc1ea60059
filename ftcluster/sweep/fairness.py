"""How sweeps share a cluster: how much of it each may hold, computed by each driver for itself from the same claims.

Shares are max-min fair, weighted by priority: a sweep that wants less than its share gets what it wants, and what is
left over is shared among the others likewise (progressive filling, Bertsekas & Gallager, Data Networks, section 6.5.2).
Hosts cannot be cut in pieces, so shares are rounded to whole ones. A sweep whose host is larger than its share would
never run: once it has waited for a while it gets room for one before all others, and so do they when it is their turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

TURN = 120.0  # seconds that a sweep without any host waits at most, if others would rather go on
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Claim:
    """What one sweep holds and wants of one kind of resource: GPUs, or CPUs where its trials use no GPU."""

    kind: str
    priority: float
    size: float  # of its largest host
    holds: float
    wants: float  # in all, a multiple of ``size``
    starved: float = 0.0  # seconds since it wants some and holds nothing


def fair_shares(capacity: float, claims: Mapping[str, Claim]) -> dict[str, float]:
    """What each may hold if everything could be cut in pieces."""
    shares: dict[str, float] = {}
    left, rest = capacity, dict(claims)
    while rest:
        each = max(left, 0.0) / sum(claim.priority for claim in rest.values())
        content = {name: claim.wants for name, claim in rest.items() if claim.wants <= each * claim.priority}
        if not content:
            return shares | {name: each * claim.priority for name, claim in rest.items()}
        shares |= content
        left -= sum(content.values())
        rest = {name: claim for name, claim in rest.items() if name not in content}
    return shares


def allotments(capacity: float, claims: Mapping[str, Claim]) -> dict[str, float]:
    """What each may hold in whole hosts; the same whoever computes it. All claims are of one kind."""
    shares = fair_shares(capacity, claims)
    granted = dict.fromkeys(claims, 0.0)

    def grant(name: str, hosts: float) -> bool:
        room = capacity - sum(granted.values()) + _ROUNDING
        size, wants = claims[name].size, claims[name].wants - granted[name] + _ROUNDING
        count = min(hosts, room // size, wants // size)
        granted[name] += max(count, 0) * size
        return count > 0

    starving = [name for name, claim in claims.items() if claim.starved > TURN]
    for name in sorted(starving, key=lambda name: (-claims[name].starved, name)):
        grant(name, 1)
    for name in sorted(claims):
        grant(name, math.floor((shares[name] - granted[name] + _ROUNDING) / claims[name].size))
    while any(grant(name, 1) for name in sorted(claims, key=lambda name: (granted[name] - shares[name], name))):
        pass
    return granted
