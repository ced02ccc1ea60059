"""Figures as plain plotly JSON: traces and layout, no colours of the page (the page's script sets those).

The best few have colours of their own, the same in every figure; the others are grey. Texts in figures are
escaped, since plotly reads a little HTML in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ftcluster.comparison.findings import Comparison, Contender, Curve, short_names, value_text
from ftcluster.contracts.trial import RunState

Figure = dict[str, Any]
# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#B15928")
GREY = "#9aa0a6"
_SCALE = ((0, 114, 178), (150, 150, 150), (213, 94, 0))  # blue is best; all of it reads on white and on black
_MANY = 2 * len(PALETTE)  # lines beyond which those without a colour are one trace: hundreds would take seconds to draw
_POINTS = 40  # of each of those lines
_VERDICT = {"better": "#009E73", "worse": "#D55E00", "not distinguishable": GREY}


def colours(comparison: Comparison) -> dict[str, str]:
    """Colour of each contender by name."""
    ordered = [contender.name for contender in comparison.contenders]
    return {name: PALETTE[at] if at < len(PALETTE) else GREY for at, name in enumerate(ordered)}


def curves(comparison: Comparison, metric: str) -> Figure:
    """One line per contender of a metric over steps."""
    shown = [c for c in comparison.contenders if c.curves.get(metric)]
    colour = colours(comparison)
    drawn = [(c, c.curves[metric]) for c in shown]
    traces = _lines(drawn, colour, points=metric.startswith("eval/"))
    axis = {"title": metric} | _loss_axis(shown, metric)
    return figure(traces, {"title": "step"}, axis, legend=len(shown) <= _MANY)


def rungs(comparison: Comparison) -> Figure:
    """Score at each rung; a cross is where a run was stopped early."""
    shown = [c for c in comparison.contenders if c.rungs]
    traces = _lines([(c, c.rungs) for c in shown], colours(comparison), points=True)
    stopped = [(c, c.rungs[-1]) for c in shown if c.state is RunState.PRUNED]
    if stopped:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "stopped early",
                "x": [point[0] for _, point in stopped],
                "y": [number(point[1]) for _, point in stopped],
                "text": [escape(f"{c.name}: {c.reason or 'stopped early'}") for c, _ in stopped],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": "#D55E00"}},
            }
        )
    steps = sorted({step for c in shown for step, _ in c.rungs})
    ticks = [f"{step}<br>{_runs(sum(any(s == step for s, _ in c.rungs) for c in shown))}" for step in steps]
    axis = {"title": "step, and how many got there", "type": "log", "tickvals": steps, "ticktext": ticks}
    return figure(traces, axis, {"title": comparison.metric}, legend=False)


def parallel(comparison: Comparison) -> Figure:
    """Parallel coordinates: a line per contender through its parameters to its score, coloured by score."""
    shown = [c for c in comparison.contenders if finite(c.score)]
    keys = [*comparison.varied]
    axes = [_Axis([c.parameters.get(key) for c in shown], key in comparison.log_keys) for key in keys]
    axes.append(_Axis([c.score for c in shown], log=False))
    ranks = _ranks(shown, comparison.direction)
    shades: dict[float, list[int]] = {}  # many runs share a few shades, and a trace for each of them
    for at in sorted(range(len(shown)), key=lambda i: -ranks[i]):
        coarse = len(shown) > 2 * _MANY and ranks[at] > 0
        shade = max(round(ranks[at] * _MANY), 1) / _MANY if coarse else ranks[at]
        shades.setdefault(shade, []).append(at)
    traces = [
        _threads(axes, [(at, shown[at]) for at in members], shade, comparison) for shade, members in shades.items()
    ]
    names = [*short_names(comparison.varied).values(), comparison.metric]
    made = figure(traces, {}, {"visible": False, "range": [-0.08, 1.08]}, legend=False)
    axis = {"tickvals": list(range(len(axes))), "ticktext": [f"<b>{escape(n)}</b>" for n in names], "side": "top"}
    made["layout"]["xaxis"] = axis | {"range": [-0.3, len(axes) - 0.7], "gridwidth": 2, "fixedrange": True}
    made["layout"]["margin"] = {"l": 16, "r": 16, "t": 40, "b": 12}
    made["layout"]["annotations"] = [_tick(x, y, text) for x, axis in enumerate(axes) for y, text in axis.ticks]
    return made


def _threads(
    axes: Sequence[_Axis], runs: Sequence[tuple[int, Contender]], shade: float, comparison: Comparison
) -> Figure:
    """Runs as lines through all axes, with a gap behind each; ``shade`` is 0 for the best run."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": runs[0][1].name,
        "x": [x for _ in runs for x in (*range(len(axes)), None)][:-1],
        "y": [y for at, _ in runs for y in (*(axis.place(at) for axis in axes), None)][:-1],
        "text": [text for _, run in runs for text in [hover(run, comparison)] * (len(axes) + 1)][:-1],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": scaled(shade), "width": 4 if shade == 0 else 2, "shape": "spline", "smoothing": 0.5},
        "marker": {"size": 6, "color": scaled(shade)},
        "opacity": 1 if shade == 0 else 0.75,
    }


def scatter(comparison: Comparison, key: str) -> Figure:
    """One parameter against the score."""
    shown = [c for c in comparison.contenders if finite(c.score)]
    values = [c.parameters.get(key) for c in shown]
    numbers = all(_is_number(value) for value in values)
    colour = colours(comparison)
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": values if numbers else [escape(value_text(value)) for value in values],
        "y": [c.score for c in shown],
        "text": [hover(c, comparison) for c in shown],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "size": 11,
            "color": [colour[c.name] for c in shown],
            "symbol": ["circle" if c.state is RunState.FINISHED else "circle-open" for c in shown],
        },
    }
    axis = value_axis(values, numbers=numbers, log=key in comparison.log_keys) | {"title": escape(key)}
    return figure([trace], axis, {"title": comparison.metric}, legend=False)


def value_axis(values: Sequence[Any], *, numbers: bool, log: bool) -> dict[str, Any]:
    """The axis of a parameter: a mark for each of a few values that were tried often."""
    different = {value_text(value) for value in values}
    if not numbers:
        return {"type": "category", "range": [-0.6, len(different) - 0.4]}
    marks = sorted(set(values)) if len(different) <= min(6, len(values) - 1) else None  # a few values, tried often
    return ({"type": "log", "exponentformat": "e"} if log else {}) | (
        {"tickvals": marks, "ticktext": [value_text(mark) for mark in marks]} if marks else {}
    )


def intervals(comparison: Comparison, *, answers: bool) -> Figure:
    """Differences to the base and to the first, with their intervals, on one axis."""
    rows = [
        (f"{contender.name} against {against.reference}", against)
        for contender in comparison.tested
        for against in (contender.against_base, contender.against_best)
        if against and (against.match is not None or not answers)
    ]
    traces = []
    for label, differences in reversed(rows):
        found = differences.match if answers and differences.match else differences.loss
        factor = 100 if answers else 1
        middle, low, high = (factor * value for value in (found.estimate, found.low, found.high))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [number(middle)],
                "y": [escape(label)],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [number(high - middle)],
                    "arrayminus": [number(middle - low)],
                    "thickness": 2.5,
                    "width": 7,
                    "color": _VERDICT[found.verdict],
                },
                "marker": {"size": 10, "color": _VERDICT[found.verdict]},
                "text": [escape(f"{found.verdict}: {middle:+.3g} [{low:+.3g}, {high:+.3g}]")],
                "hovertemplate": "%{text}<extra>%{y}</extra>",
            }
        )
    unit = "percentage points, right is better" if answers else "nats per token, left is better"
    made = figure(traces, {"title": unit, "zeroline": True, "zerolinewidth": 2}, {"automargin": True}, legend=False)
    made["layout"]["height"] = 110 + 46 * len(rows)
    return made


def _lines(drawn: Sequence[tuple[Contender, Curve]], colour: Mapping[str, str], *, points: bool) -> list[Figure]:
    """A trace per run, the best on top; of many runs those without a colour are one trace, behind the others."""
    single = [one for one in drawn if len(drawn) <= _MANY or colour[one[0].name] != GREY]
    traces = [_line(run, curve, colour[run.name], points=points) for run, curve in reversed(single)]
    others = [one for one in drawn if one not in single]
    return [*([_joined(others, points=points)] if others else []), *traces]


def _joined(drawn: Sequence[tuple[Contender, Curve]], *, points: bool) -> Figure:
    """Lines in one trace, with a gap behind each."""
    kept = [(run.name, curve[:: -(-len(curve) // _POINTS)]) for run, curve in drawn]
    return {
        "type": "scatter",
        "mode": "lines+markers" if points else "lines",
        "name": "others",
        "x": [step for _, curve in kept for step in (*(step for step, _ in curve), None)],
        "y": [value for _, curve in kept for value in (*(number(value) for _, value in curve), None)],
        "text": [name for name, curve in kept for _ in range(len(curve) + 1)],
        "line": {"color": GREY, "width": 1},
        "marker": {"size": 4, "color": GREY},
        "opacity": 0.6,
        "hovertemplate": "%{y:.4g} at step %{x}<extra>%{text}</extra>",
    }


def _line(contender: Contender, curve: Curve, colour: str, *, points: bool) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if points else "lines",
        "name": contender.name,
        "x": [step for step, _ in curve],
        "y": [number(value) for _, value in curve],
        "line": {"color": colour, "width": 2 if colour != GREY else 1},
        "marker": {"size": 6, "color": colour},
        "hovertemplate": "%{y:.4g} at step %{x}",
    }


def figure(traces: list[dict[str, Any]], x: Mapping[str, Any], y: Mapping[str, Any], *, legend: bool) -> Figure:
    """Traces with their two axes."""
    layout = {
        "xaxis": _titled({"automargin": True} | dict(x)),
        "yaxis": _titled({"automargin": True} | dict(y)),
        "showlegend": legend,
        "legend": {"traceorder": "reversed", "orientation": "h", "y": -0.25},
        "margin": {"l": 56, "r": 16, "t": 24, "b": 56},
        "hovermode": "closest",
        "height": 380,
    }
    return {"data": traces, "layout": layout}


def _titled(axis: Mapping[str, Any]) -> dict[str, Any]:
    title = axis.get("title")
    return dict(axis) | ({"title": {"text": title}} if title else {})


def _loss_axis(shown: Sequence[Contender], metric: str) -> dict[str, Any]:
    """A logarithmic axis where a loss falls by more than a factor of ten, as it does early in training."""
    values = [value for c in shown for _, value in c.curves[metric] if finite(value)]
    wide = bool(values) and metric.endswith("/loss") and min(values) > 0 and max(values) > 10 * min(values)
    return {"type": "log"} if wide else {}


class _Axis:
    """Where values of one parameter lie between 0 and 1, and which marks to draw."""

    def __init__(self, values: Sequence[Any], log: bool) -> None:
        self._values = values
        self._numeric = bool(values) and all(_is_number(value) for value in values)
        self._log = log and self._numeric and min(values) > 0
        if self._numeric:
            scaled = [self._scale(value) for value in values]
            self._low, self._high = min(scaled), max(scaled)
        self._levels = sorted({value_text(value) for value in values})

    def place(self, at: int) -> float:
        return self._at(self._values[at])

    def _at(self, value: Any) -> float:
        if not self._numeric:
            return self._levels.index(value_text(value)) / (len(self._levels) - 1) if len(self._levels) > 1 else 0.5
        width = self._high - self._low
        return (self._scale(value) - self._low) / width if width else 0.5

    def _scale(self, value: float) -> float:
        return math.log10(value) if self._log else float(value)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        different = sorted(set(self._values)) if self._numeric else []
        if not self._numeric or len(different) <= 5:
            shown = different if self._numeric else list({value_text(v): v for v in self._values}.values())
            return [(self._at(value), value_text(value)) for value in shown]
        marks = [self._low + (self._high - self._low) * part / 4 for part in range(5)]
        return [(part / 4, value_text(10**mark if self._log else mark)) for part, mark in enumerate(marks)]


def _tick(x: int, y: float, text: str) -> dict[str, Any]:
    return {"text": escape(text), "x": x, "y": y, "xanchor": "left", "xshift": 7, "showarrow": False}


def hover(contender: Contender, comparison: Comparison) -> str:
    """A run with its parameters and its score, in the little HTML that plotly reads."""
    names = short_names(tuple(contender.parameters))
    lines = [f"<b>{escape(contender.name)}</b> ({contender.state}, step {contender.step})"]
    lines += [f"{escape(names[key])} {escape(value_text(value))}" for key, value in contender.parameters.items()]
    return "<br>".join([*lines, f"{escape(comparison.metric)} {contender.score:.4g}"])


def _ranks(shown: Sequence[Contender], direction: str) -> list[float]:
    """0 for the best score, 1 for the worst."""
    order = sorted(range(len(shown)), key=lambda i: shown[i].score or 0.0, reverse=direction == "maximize")
    ranks = [0.0] * len(shown)
    for place, at in enumerate(order):
        ranks[at] = place / max(len(shown) - 1, 1)
    return ranks


def scaled(rank: float) -> str:
    """The colour of a rank between 0, the best, and 1."""
    place = rank * (len(_SCALE) - 1)
    at = min(int(place), len(_SCALE) - 2)
    mixed = (round(a + (b - a) * (place - at)) for a, b in zip(_SCALE[at], _SCALE[at + 1], strict=True))
    return "rgb({},{},{})".format(*mixed)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def finite(value: float | None) -> bool:
    """Whether there is a value that can be drawn."""
    return value is not None and math.isfinite(value)


def number(value: float) -> float | None:
    """JSON has no NaN; plotly draws a gap for null."""
    return value if math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
