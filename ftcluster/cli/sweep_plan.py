"""``ftcluster sweep FILE --plan``: what a sweep would take, printed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ftcluster.cli.output import console, notices, print_json, table
from ftcluster.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from ftcluster.sweep.forecast.forecast import Forecast, KindForecast
    from ftcluster.sweep.plan import SweepPlan
    from ftcluster.sweep.timeline import Span

_LANES = 24  # of the timeline, at most
_EDGE = 16  # columns beside it
_WIDEST = 100


def show_forecast(plan: SweepPlan, as_json: bool) -> None:
    """Probe, play the sweep through, and print what that says; it is kept for when the same sweep is launched.

    Raises:
        ConfigError: trials that are too large are refused, or nothing would be left.
        TrialError: no probe could be trained.
        UsageError: the cluster is not there, or no host comes up.
    """
    from ftcluster.cluster.machine import free_disk
    from ftcluster.cluster.ray_cluster import Cluster
    from ftcluster.config.compose import resolve_home
    from ftcluster.config.environment import ray_address
    from ftcluster.sweep.forecast.forecast import Planner
    from ftcluster.sweep.prediction import keep

    home = resolve_home(plan.base)
    with notices().status("joining the cluster ...") as status:

        def tell(what: str, done: int, count: int) -> None:
            status.update(f"{what} ({done + 1} of {count}) ..." if count > 1 else f"{what} ...")

        began = time.monotonic()
        with Cluster(ray_address(plan.base.cluster.address)) as cluster:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # after Ray, whose own would leave the probes
            found = Planner(plan, cluster, time.monotonic() - began, tell).forecast()
    keep(home, plan.spec, found.prediction)
    if as_json:
        print_json(_plain(found, free_disk(home)))
    else:
        _show(found, free_disk(home))


def _show(found: Forecast, free: int) -> None:
    out = console()
    for misfit in found.misfits:
        out.print(f"too large: {misfit}", markup=False, soft_wrap=True)
    table(("kind of trial", "trials", "memory", "a step", "steps", "alone"), map(_kind, found.kinds))
    for kind in found.kinds:
        if kind.problem:
            out.print(f"{_settings(kind)}: its probe failed: {kind.problem}", markup=False, soft_wrap=True)
    out.print()
    table(("", found.plan.name), list(_facts(found, free)))
    lines = timeline(found.played.spans, min(_WIDEST, out.width - _EDGE))
    if lines:
        out.print("\nWho would run where, and when, if results came like this:")
        out.print("\n".join(lines), markup=False, no_wrap=True, crop=True)


def timeline(spans: Sequence[Span], width: int) -> list[str]:
    """Lines of text, a line for each trial at a time of each host."""
    from ftcluster.report.usage import lanes
    from ftcluster.sweep.timeline import drawn

    rows = [replace(span, host=f"{host.removeprefix('host ')}.{lane}") for span, host, lane in lanes(spans)]
    shown = list(dict.fromkeys(span.host for span in rows))
    kept = set(shown[:_LANES])
    made = drawn([span for span in rows if span.host in kept], max(10, width))
    return made + ([f"and {len(shown) - _LANES} lines more"] if len(shown) > _LANES else [])


def _kind(kind: KindForecast) -> tuple[object, ...]:
    alone = kind.timing.stretch(kind.steps, 1, 1, 1)
    mark = "" if kind.probed else "about "
    memory = format_bytes(kind.need) if kind.need else "-"
    step = f"{mark}{kind.timing.step:.3g} s"
    return _settings(kind), kind.trials, memory, step, kind.steps, format_seconds(alone)


def _settings(kind: KindForecast) -> str:
    from ftcluster.sweep.view import in_words

    return in_words(kind.values) or "all alike"


def _facts(found: Forecast, free: int) -> Iterator[tuple[str, str]]:
    expected, plan = found.expected, found.plan
    sample = ", of which a sample was looked at since the sampler learns" if found.learns else ""
    yield "trials", f"{plan.trials}{sample}"
    if found.room.bytes:
        yield "memory", f"{format_bytes(found.room.bytes)} ({found.room.named})"
    span = f"{format_seconds(expected.low)} to {format_seconds(expected.high)}"
    yield "time", f"about {format_seconds(expected.seconds)} ({span})"
    if expected.ended_by:
        yield "", f"then {expected.ended_by} ends it"
    yield "first report", f"after {format_seconds(expected.first_report)}"
    places = found.kinds[0].places
    beside = f", up to {places} trials on each" if places > 1 else ""
    yield "hosts", f"{expected.hosts} at once{beside}, busy {expected.utilisation:.0%} of the time"
    yield "host-hours", f"{expected.host_hours:.3g}"
    if expected.gpu_hours:
        yield "GPU-hours", f"{expected.gpu_hours:.3g}"
    if expected.money is not None:
        yield "money", f"{expected.money:,.2f}"
    disk = found.disk
    yield "disk", f"{format_bytes(disk.at_most)} at most, {format_bytes(disk.in_the_end)} in the end"
    yield "free there", format_bytes(free) + ("" if free > disk.at_most else ": too little, it will not start")


def _plain(found: Forecast, free: int) -> dict[str, Any]:
    return {
        "sweep": found.plan.name,
        "trials": found.plan.trials,
        "sampled": found.learns,
        "kinds": [
            {
                "settings": kind.values,
                "trials": kind.trials,
                "memory_bytes": kind.need or None,
                "ranks": kind.ranks,
                "trials_per_host": kind.places,
                "steps": kind.steps,
                "seconds_per_step": kind.timing.step,
                "seconds_alone": kind.timing.stretch(kind.steps, 1, 1, 1),
                "probed": kind.probed,
                "problem": kind.problem,
            }
            for kind in found.kinds
        ],
        "memory_limit_bytes": found.room.bytes or None,
        "too_large": [
            {"settings": misfit.values, "reason": misfit.reason, "computed_with": misfit.words}
            for misfit in found.misfits
        ],
        "host_start_seconds": found.start_up,
        **asdict(found.expected),
        "disk_bytes_at_most": found.disk.at_most,
        "disk_bytes_in_the_end": found.disk.in_the_end,
        "disk_bytes_free": free,
        "timeline": [asdict(span) for span in found.played.spans],
    }
