"""A report in plain words, for the top of the page: the result first, then why, then what it took.

Nothing is claimed that the trials do not show: a share of the variance comes with its interval, "no difference you can
measure" needs an interval that ends near zero, and where there are too few trials that is what is said.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftcluster.comparison.findings import score_text, short_names, value_text
from ftcluster.comparison.verdict import listed, percent
from ftcluster.contracts.trial import RunState
from ftcluster.report.findings import Setting, SweepReport
from ftcluster.report.influence import NEGLIGIBLE, Share
from ftcluster.report.settings import difference
from ftcluster.units import format_bytes, format_seconds

_LEADING = 5  # settings that are compared with the best in words


def sentences(report: SweepReport) -> list[str]:
    """What the sweep found, one statement after the other."""
    best = next((setting for setting in report.settings if setting.mean is not None), None)
    found = [_standing(report)]
    if best is None:
        found.append("No trial has a validation result, so there is nothing to rank.")
    else:
        found = [_best(report, best), *found, *_lead(report, best), *_influence(report)]
    return [*found, *_early(report), *_failures(report), *_usage(report), *foretold(report)]


def _standing(report: SweepReport) -> str:
    count, ended = len(report.comparison.contenders), sum(c.state.ended for c in report.comparison.contenders)
    parts = [
        f"{report.count(state)} {word}"
        for state, word in (
            (RunState.FINISHED, "finished"),
            (RunState.PRUNED, "stopped early"),
            (RunState.FAILED, "failed"),
            (RunState.KILLED, "killed"),
        )
        if report.count(state)
    ]
    reason = f" ({report.reason.splitlines()[0]})" if report.reason else ""
    return f"The sweep is {report.state}{reason}: {ended} of {_trials(count)} ended{': ' if parts else ''}" + (
        f"{listed(parts)}." if parts else "."
    )


def _best(report: SweepReport, best: Setting) -> str:
    metric = report.comparison.metric
    words = settings_text(best)
    several = len(best.trials) > 1
    of, have = (f"{best.name} and its repeats", "have") if several else (best.name, "has")
    value = f"{metric} {score_text(best.mean)}"
    if best.low is not None:
        value += f", 95 % interval {score_text(best.low)} to {score_text(best.high)}, {len(best.judged)} seeds"
    finished = best.judged[0].state is RunState.FINISHED
    lead = f"{have} the best value" if finished else f"{have} the best value so far"
    return f"{of} {lead} ({value}){f': {words}' if words else ''}."


def settings_text(setting: Setting) -> str:
    """``lr=0.007, rank=16``, without what the setting had no use for."""
    names = short_names(tuple(setting.parameters))
    used = {key: value for key, value in setting.parameters.items() if value is not None}
    return ", ".join(f"{names[key]}={value_text(value)}" for key, value in used.items())


def _lead(report: SweepReport, best: Setting) -> list[str]:
    others = [setting for setting in report.settings if setting.mean is not None and setting is not best][:_LEADING]
    if not others:
        return []
    if not report.repeated:
        return [
            "Each setting was trained with one seed, so how much of a lead is chance is not known; "
            f"ftcluster compare {report.title} measures the best on test rows."
        ]
    unclear = [other.name for other in others if not _clear(difference(best, other))]
    if not unclear:
        return [f"It is ahead of the next {len(others)} by more than seeds explain."]
    return [f"By its seeds it cannot be told from {listed(unclear)}."]


def _clear(found: tuple[float, float, float] | None) -> bool:
    return found is not None and (found[1] > 0 or found[2] < 0)


def _influence(report: SweepReport) -> list[str]:
    found, names = report.influence, short_names(report.comparison.varied)
    metric, step = report.comparison.metric, report.rung.step
    if not report.keys or len(report.comparison.contenders) < 2:
        return []
    if not found.shares:
        if found.trials >= found.needed:
            return [f"All trials have the same {metric} at step {step}."]
        return [
            f"{_trials(found.trials)} with a value at step {step} are too few to say what the parameters do; "
            f"it takes {found.needed} at least."
        ]
    said = [_matters(share, names, first=at == 0) for at, share in enumerate(s for s in found.shares if s.matters)]
    text = []
    if said:
        text.append(
            f"{listed(said)} of the differences in {metric} at step {step}, where {_all(report)} can be compared."
        )
    text += _without_effect([names[share.key] for share in found.shares if share.negligible])
    unclear = [share for share in found.shares if not share.matters and not share.negligible]
    text += _unclear([_named(share, names) for share in unclear], report)
    return text


def _all(report: SweepReport) -> str:
    return f"{len(report.rung.values)} of {_trials(len(report.comparison.contenders))}"


def _matters(share: Share, names: dict[str, str], *, first: bool) -> str:
    interval = f"({percent(share.low)} to {percent(share.high)})"
    text = (
        f"{names[share.key]} explains {percent(share.estimate)}"
        if first
        else f"{names[share.key]} {percent(share.estimate)}"
    )
    return f"{text} {interval}"


def _without_effect(names: Sequence[str]) -> list[str]:
    return [f"{listed(names)} made no difference you can measure (under {percent(NEGLIGIBLE)})."] if names else []


def _named(share: Share, names: dict[str, str]) -> str:
    return f"{names[share.key]} (up to {percent(share.high)})" if share.known else f"{names[share.key]} (never alone)"


def _unclear(names: Sequence[str], report: SweepReport) -> list[str]:
    return [f"What {listed(names)} did cannot be told from {_trials(report.influence.trials)}."] if names else []


def _early(report: SweepReport) -> list[str]:
    stopped = report.count(RunState.PRUNED)
    if not stopped or not report.steps_whole:
        return []
    saved = percent(1 - report.steps / report.steps_whole)
    return [
        f"Stopping {_trials(stopped)} early saved {saved} of the steps: "
        f"{report.steps:,} of {report.steps_whole:,} were trained."
    ]


def _failures(report: SweepReport) -> list[str]:
    return [f"{_trials(len(alike.trials))} {alike.reason}." for alike in report.failed]


def _usage(report: SweepReport) -> list[str]:
    used = report.usage
    if used.utilisation is None:
        return []
    hosts = "1 host" if used.most == 1 else f"{used.most} hosts at once"
    text = f"{hosts}, busy {percent(used.utilisation)} of {format_seconds(used.available / used.most)}"
    if used.gpu_hours:
        text += f"; {used.gpu_hours:.3g} GPU-hours"
    if used.money is not None:
        text += f"; {used.money:,.2f} in money"
    return [f"It took {text}."]


def foretold(report: SweepReport) -> list[str]:
    """What was foretold of it, beside what it took."""
    if (found := report.foretold) is None:
        return []
    made = found.prediction
    span = f" ({format_seconds(made.low)} to {format_seconds(made.high)})" if made.low < made.high else ""
    said, took = [f"{format_seconds(made.seconds)}{span}"], [format_seconds(found.seconds)]
    if made.host_hours is not None:
        said, took = [*said, f"{made.host_hours:.3g} host-hours"], [*took, f"{found.host_hours:.3g} host-hours"]
    if made.disk is not None:
        said, took = [*said, f"{format_bytes(made.disk)} of disk"], [*took, format_bytes(found.disk)]
    return [f"Foretold from {made.basis}: {listed(said)}; it took {listed(took)}."]


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
