"""How long a sweep will still take, from the stretches that it has behind it; for people, nothing decides by it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from ftcluster.config.schema import SweepConfig
from ftcluster.sweep.survivors import reaching
from ftcluster.sweep.timeline import Span


def remaining(
    spec: SweepConfig,
    rungs: Sequence[int],
    trials: int,
    spans: Sequence[Span],
    now: float,
    *,
    running: int = 0,
    failed: int = 0,
) -> float:
    """Seconds until ``trials`` have trained as far as the rules may let them; NaN before a stretch has ended.

    Stretches up to a rung take as long as those before them did, or in proportion to their steps where there was none;
    as many run at once as ever did. ``now`` in seconds since 1970.
    """
    done = [span for span in spans if span.end == "reported" and span.rung < len(rungs)]
    if not done:
        return math.nan
    steps = [rung - before for rung, before in zip(rungs, (0, *rungs[:-1]), strict=True)]
    took = {rung: [span.ended - span.started for span in done if span.rung == rung] for rung in range(len(rungs))}
    each = sum(map(sum, took.values())) / sum(steps[span.rung] for span in done)
    seconds = [fmean(took[rung]) if took[rung] else each * steps[rung] for rung in range(len(rungs))]
    counts = Counter(span.rung for span in done)
    counts[0] += failed  # nothing more comes of them
    places = max(running, at_once([(span.started, span.ended) for span in done]))
    left = sum(
        math.ceil(max(0, count - counts[rung]) / places) * seconds[rung]
        for rung, count in enumerate(reaching(spec, trials, len(rungs)))
    )
    return max(0.0, left - max(0.0, now - max(span.ended for span in done)))


def at_once(intervals: Sequence[tuple[float, float]]) -> int:
    """How many of them there are at a time, at most."""
    moments = sorted([(began, 1) for began, _ in intervals] + [(ended, -1) for _, ended in intervals])
    now = highest = 0
    for _, change in moments:
        now += change
        highest = max(highest, now)
    return highest
