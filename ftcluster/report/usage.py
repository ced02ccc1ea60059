"""What a sweep took of a cluster, from its timeline: hosts, how long they had trials, GPU-hours."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from ftcluster.report.findings import Host, Usage
from ftcluster.sweep.remaining import at_once
from ftcluster.sweep.timeline import Span

Interval = tuple[float, float]


def usage(spans: Sequence[Span], starts: Sequence[float], gpus: Mapping[str, float], price: float) -> Usage:
    """``starts``: when a driver of the sweep began, in order; ``gpus`` of a rank, by trial.

    Between two drivers nobody waits for a host, so that time is not available.
    """
    by_driver: dict[int, list[Span]] = {}
    for span in sorted(spans, key=lambda span: (span.started, span.trial)):
        by_driver.setdefault(bisect_right(starts, span.started), []).append(span)
    hosts: list[Host] = []
    available, most = 0.0, 0
    for mine in by_driver.values():
        there = _hosts(mine, gpus)
        together = at_once([(host.began, host.ended) for host in there])
        available += together * (max(span.ended for span in mine) - min(span.started for span in mine))
        most = max(most, together)
        hosts += there
    return Usage(tuple(spans), tuple(hosts), most, available, price)


def _hosts(spans: Sequence[Span], gpus: Mapping[str, float]) -> list[Host]:
    names = dict.fromkeys(span.host for span in spans)
    return [_host(name, [span for span in spans if span.host == name], gpus) for name in names]


def _host(name: str, spans: Sequence[Span], gpus: Mapping[str, float]) -> Host:
    ranks = max(len(span.nodes) for span in spans)
    return Host(
        name=name,
        ranks=ranks,
        gpus=ranks * max(gpus.get(span.trial, 0.0) for span in spans),
        began=min(span.started for span in spans),
        ended=max(span.ended for span in spans),
        busy=covered([(span.started, span.ended) for span in spans]),
    )


def covered(intervals: Sequence[Interval]) -> float:
    """Length of what intervals cover together: a host with several trials is busy once."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted(intervals):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def lanes(spans: Sequence[Span]) -> list[tuple[Span, str, int]]:
    """Each span with its host and a lane on it, so that trials that share a host lie beside each other."""
    free: dict[str, list[float]] = {}
    found = []
    for span in sorted(spans, key=lambda span: (span.started, span.trial)):
        ends = free.setdefault(span.host, [])
        lane = next((at for at, end in enumerate(ends) if end <= span.started), len(ends))
        ends[lane : lane + 1] = [span.ended]
        found.append((span, span.host, lane))
    return found
