"""How many trials train up to each rung, as far as the rules settle that before anything is known."""

from __future__ import annotations

from collections import Counter

from ftcluster.config.schema import SweepConfig
from ftcluster.sweep.brackets import brackets


def reaching(spec: SweepConfig, trials: int, rungs: int) -> tuple[int, ...]:
    """Trials at each rung, of so many in all; where a rule goes by values alone, as many as there could be."""
    points, eta = -(-trials // spec.repeats), spec.pruner.eta
    if spec.pruner.name == "halving":
        sizes = Counter({0: points})
    elif spec.pruner.name == "hyperband":
        sizes = Counter(brackets(points, rungs, eta))
    else:
        return (trials,) * rungs
    found = [0] * rungs
    for judged_from, size in sizes.items():
        for rung in range(rungs):
            found[rung] += spec.repeats * size
            if rung >= judged_from:
                size = max(1, size // eta)
    return tuple(found)
