"""Figures of a report that a comparison does not have; colours and conventions are those of ``comparison.plots``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np

from ftcluster.comparison.findings import Comparison, Contender, short_names, value_text
from ftcluster.comparison.plots import GREY, Figure, colours, figure, finite, hover, number, rungs, scaled, value_axis
from ftcluster.contracts.trial import RunState
from ftcluster.report.findings import SweepReport
from ftcluster.report.usage import lanes

_CLEAR, _NONE, _UNCLEAR = "#0072B2", GREY, "#E69F00"
_BAD = "#D55E00"
_SETTINGS = 30  # shown with their intervals
_LEVELS = 8  # of a parameter, up to which a table of means says more than a surface
_NAMES = 40  # of hosts beside the timeline
_GRID = 40  # points of a surface each way


def by_tokens(report: SweepReport) -> Figure:
    """Score against tokens read, where trials read differently many in a step."""
    contenders = (replace(c, rungs=report.tokens.get(c.name, ())) for c in report.comparison.contenders)
    made = rungs(replace(report.comparison, contenders=tuple(contenders)))
    made["layout"]["xaxis"] = {"title": {"text": "tokens read"}, "type": "log", "automargin": True}
    return made


def intervals(report: SweepReport) -> Figure:
    """Settings with the values of their seeds, the mean and its interval, the best on top."""
    shown = [setting for setting in report.settings if setting.mean is not None][:_SETTINGS]
    judged = [(setting, trial) for setting in shown for trial in setting.judged]
    values = {
        "type": "scatter",
        "mode": "markers",
        "x": [trial.score for _, trial in judged],
        "y": [escape(setting.name) for setting, _ in judged],
        "text": [escape(f"{trial.name}: {trial.score:.4g}") for _, trial in judged],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 6, "color": GREY},
    }
    reach = [0.0 if each.high is None or each.mean is None else each.high - each.mean for each in shown]
    means = {
        "type": "scatter",
        "mode": "markers",
        "x": [setting.mean for setting in shown],
        "y": [escape(setting.name) for setting in shown],
        "text": [
            escape(f"{setting.mean:.4g} ± {half:.2g} ({len(setting.judged)} seeds)")
            for setting, half in zip(shown, reach, strict=True)
        ],
        "hovertemplate": "%{text}<extra>%{y}</extra>",
        "marker": {"size": 10, "color": _CLEAR, "symbol": "diamond"},
        "error_x": {"type": "data", "array": reach, "color": _CLEAR, "width": 6},
    }
    axis = {"automargin": True, "type": "category", "autorange": "reversed"}
    made = figure([values, means], {"title": report.comparison.metric}, axis, legend=False)
    made["layout"]["height"] = 110 + 26 * len(shown)
    return made


def without_labels(report: SweepReport) -> Comparison:
    """The comparison with those parameters alone that can have an effect."""
    contenders = (
        replace(c, parameters={key: c.parameters.get(key) for key in report.keys}) for c in report.comparison.contenders
    )
    return replace(report.comparison, contenders=tuple(contenders))


def trade_off(report: SweepReport, other: str) -> Figure | None:
    """The metric against another objective, with a line through finished trials that nothing beats in both."""
    comparison = report.comparison
    shown = [c for c in comparison.contenders if finite(c.score) and finite(c.metrics.get(other))]
    if not shown:
        return None
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in (report.also[other], comparison.direction)]
    places = {c.name: (signs[0] * c.metrics[other], signs[1] * (c.score or 0.0)) for c in shown}
    finished = [c for c in shown if c.state is RunState.FINISHED]
    front = [
        c
        for c in finished
        if not any(
            places[d.name] != places[c.name]
            and all(a <= b for a, b in zip(places[d.name], places[c.name], strict=True))
            for d in finished
        )
    ]
    front.sort(key=lambda c: places[c.name])
    colour = colours(comparison)
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [c.metrics[other] for c in front],
        "y": [c.score for c in front],
        "line": {"color": GREY, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [c.metrics[other] for c in shown],
        "y": [c.score for c in shown],
        "text": [f"{hover(c, comparison)}<br>{escape(other)} {c.metrics[other]:.4g}" for c in shown],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "size": 11,
            "color": [colour[c.name] for c in shown],
            "symbol": ["circle" if c in finished else "circle-open" for c in shown],
        },
    }
    return figure([line, dots], {"title": escape(other)}, {"title": comparison.metric}, legend=False)


def influence(report: SweepReport) -> Figure:
    """What each parameter explains, in percent, with its interval."""
    names = short_names(report.comparison.varied)
    shown = [share for share in report.influence.shares if share.known]
    colour = [_CLEAR if share.matters else _NONE if share.negligible else _UNCLEAR for share in shown]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [100 * share.estimate for share in shown],
        "y": [escape(names[share.key]) for share in shown],
        "marker": {"color": colour},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [100 * (share.high - share.estimate) for share in shown],
            "arrayminus": [100 * (share.estimate - share.low) for share in shown],
            "color": GREY,
        },
        "hovertemplate": "%{y}: %{x:.0f} %<extra></extra>",
    }
    axis = {"title": "% of the variance explained", "range": [0, 105]}
    made = figure([trace], axis, {"automargin": True, "autorange": "reversed", "type": "category"}, legend=False)
    made["layout"]["height"] = 110 + 40 * len(shown)
    return made


def surface(report: SweepReport) -> Figure | None:
    """The two parameters that explain most against each other; None where no two can be laid out."""
    keys = [share.key for share in report.influence.shares] or list(report.keys)
    runs = [c for c in report.comparison.contenders if c.name in report.rung.values]
    for first, second in zip(keys[:1] * (len(keys) - 1), keys[1:], strict=True):
        both = [c for c in runs if c.parameters.get(first) is not None and c.parameters.get(second) is not None]
        values = [report.rung.values[c.name] for c in both]
        axes = [[c.parameters[key] for c in both] for key in (first, second)]
        if _crossed(*axes):
            return _table(report, (first, second), axes, values)
        if all(_numeric(axis) and len(set(axis)) > 2 for axis in axes):
            return _contour(report, (first, second), axes, both, values)
    return None


def _crossed(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two parameters have few levels each, and most pairs of them were tried."""
    levels = [{value_text(value) for value in values} for values in (first, second)]
    pairs = {(value_text(x), value_text(y)) for x, y in zip(first, second, strict=True)}
    cells = len(levels[0]) * len(levels[1])
    return all(1 < len(each) <= _LEVELS for each in levels) and 2 * len(pairs) > cells


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _table(
    report: SweepReport, keys: tuple[str, str], axes: Sequence[Sequence[Any]], values: Sequence[float]
) -> Figure:
    """Mean of the trials of each pair of levels."""
    levels = [sorted(set(axis)) if _numeric(axis) else _texts(axis) for axis in axes]
    shown = [[value_text(level) for level in each] for each in levels]
    cells: dict[tuple[str, str], list[float]] = {}
    for x, y, value in zip(*axes, values, strict=True):
        cells.setdefault((value_text(x), value_text(y)), []).append(value)
    means = [[float(np.mean(cells[x, y])) if (x, y) in cells else None for x in shown[0]] for y in shown[1]]
    trace = {
        "type": "heatmap",
        "x": [escape(text) for text in shown[0]],
        "y": [escape(text) for text in shown[1]],
        "z": means,
        "text": [["" if mean is None else f"{mean:.4g}" for mean in row] for row in means],
        "texttemplate": "%{text}",
        "hovertemplate": "%{text}<extra></extra>",
        "xgap": 2,
        "ygap": 2,
        **_scale(report),
    }
    category = {"type": "category"}
    return figure([trace], {"title": escape(keys[0]), **category}, {"title": escape(keys[1]), **category}, legend=False)


def _texts(values: Sequence[Any]) -> list[Any]:
    return list({value_text(value): value for value in values}.values())


def _contour(
    report: SweepReport,
    keys: tuple[str, str],
    axes: Sequence[Sequence[Any]],
    runs: Sequence[Contender],
    values: Sequence[float],
) -> Figure | None:
    """Straight lines between the trials, and nothing beyond them; None where they lie on a line."""
    from scipy.interpolate import griddata  # type: ignore[import-untyped]  # no stubs; late, it takes half a second
    from scipy.spatial import QhullError  # type: ignore[import-untyped]

    logs = [key in report.comparison.log_keys and min(axis) > 0 for key, axis in zip(keys, axes, strict=True)]
    placed = [np.log10(axis) if log else np.asarray(axis, float) for axis, log in zip(axes, logs, strict=True)]
    lines = [np.linspace(axis.min(), axis.max(), _GRID) for axis in placed]
    try:
        grid = griddata(
            np.column_stack(placed), np.asarray(values), tuple(np.meshgrid(*lines)), method="linear", rescale=True
        )
    except (QhullError, ValueError):
        return None
    back = [[float(v) for v in (10**line if log else line)] for line, log in zip(lines, logs, strict=True)]
    rows = [[number(float(f"{value:.5g}")) for value in row] for row in grid]
    trace = {"type": "contour", "x": back[0], "y": back[1], "z": rows, "hoverinfo": "skip", **_scale(report)}
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": list(axes[0]),
        "y": list(axes[1]),
        "text": [hover(run, report.comparison) for run in runs],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 8, "color": "#ffffff", "line": {"width": 1.5, "color": "#1b1f24"}},
    }
    x, y = (
        value_axis(axis, numbers=True, log=log) | {"title": escape(key)}
        for key, axis, log in zip(keys, axes, logs, strict=True)
    )
    return figure([trace, dots], x, y, legend=False)


def _scale(report: SweepReport) -> dict[str, Any]:
    return {
        "colorscale": [[at, scaled(at)] for at in (0, 0.5, 1)],
        "reversescale": report.comparison.direction == "maximize",
        "colorbar": {"title": {"text": escape(report.comparison.metric)}, "thickness": 12},
    }


def timeline(report: SweepReport) -> Figure:
    """Who ran where, and when: a bar for each stretch, lanes where trials shared a host."""
    rows = lanes(report.usage.spans)
    first = min(span.started for span in report.usage.spans)
    last = max(span.ended for span in report.usage.spans)
    size, unit = next(((s, u) for s, u in ((3600, "hours"), (60, "minutes")) if last - first > 3 * s), (1, "seconds"))
    colour = colours(report.comparison)
    height = {host: max(lane for _, other, lane in rows if other == host) + 1 for _, host, _ in rows}
    base: Mapping[str, int] = {host: sum(list(height.values())[:at]) for at, host in enumerate(height)}
    places = [-(base[host] + lane) for _, host, lane in rows]
    bad = [span.end in ("lost", "failed", "refused") for span, _, _ in rows]
    trace = {
        "type": "bar",
        "orientation": "h",
        "base": [(span.started - first) / size for span, _, _ in rows],
        "x": [(span.ended - span.started) / size for span, _, _ in rows],
        "y": places,
        "text": [escape(span.trial.rpartition("-")[2]) for span, _, _ in rows],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "constraintext": "inside",
        "customdata": [
            f"{escape(span.trial)}: {span.end}, {span.ended - span.started:.1f} s on {escape(host)}, "
            f"waited {span.waited:.1f} s"
            for span, host, _ in rows
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
        "marker": {
            "color": [colour.get(span.trial, GREY) for span, _, _ in rows],
            "line": {"width": [3 if one else 0.5 for one in bad], "color": [_BAD if one else "#ffffff" for one in bad]},
        },
    }
    named = list(height)[:: -(-len(height) // _NAMES)]
    marks = {
        "tickvals": [-(base[host] + (height[host] - 1) / 2) for host in named],
        "ticktext": [escape(host) for host in named],
        "zeroline": False,
    }
    made = figure([trace], {"title": f"{unit} since the first trial"}, marks, legend=False)
    made["layout"] |= {"height": min(1200, 110 + 26 * len(set(places))), "bargap": 0.15}
    return made
